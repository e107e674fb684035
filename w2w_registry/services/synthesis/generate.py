"""Pictures of registered identities: PNGs that say what they are, a contact sheet, strips over an edit's strength."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Use
from w2w_registry.errors import NoEdit, UsageError, storing
from w2w_registry.lora import Change, read_adapter
from w2w_registry.records import Result
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.made_in import look
from w2w_registry.services.consent.results import hold_models, hold_point
from w2w_registry.services.recording import pictures as outgoing
from w2w_registry.services.recording.outputs import check_outputs
from w2w_registry.services.recording.pictures import Outgoing, Ready
from w2w_registry.services.recording.sources import Source, Vector, open_space_of, source, theta_of
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.edit import Amounts, plan_move
from w2w_registry.services.synthesis.engine import PROMPT, Engine, require_diffusion
from w2w_registry.services.synthesis.new_versions import Permission

if TYPE_CHECKING:
    from w2w_registry.catalog.models import Space
    from w2w_registry.diffusion.generate import Recipe
    from w2w_registry.diffusion.pipeline import DiffusionModel
    from w2w_registry.space.basis import WeightSpace

MAX_PICTURES = 10_000


@dataclass(frozen=True)
class GenerateRequest:
    """What ``w2w-reg generate`` was asked.

    ``edit``: amounts per direction. ``strengths``: multiples of the edit, one picture each, as a strip.
    ``from_timestep``, ``local``: as in ``Recipe``.
    ``from_coordinates`` draws the version's point in the space even when its own LoRA is stored.
    """

    ref: str
    out: str
    prompt: str = PROMPT
    seeds: Sequence[int] = (1, 2, 3, 4)
    negative: str | None = None
    guidance: float | None = None
    steps: int = 30
    edit: Amounts = field(default_factory=dict)
    keep: Sequence[str] = ()
    from_timestep: int | None = None
    local: float | None = None
    strengths: Sequence[float] = (1.0,)
    from_coordinates: bool = False
    batch: int = 8
    purpose: str | None = None
    engine: Engine = field(default_factory=Engine)

    def check(self) -> None:
        """Raises NoEdit: something is said of an edit, and there is none."""
        shaping = {
            "strengths": tuple(self.strengths) != (1.0,),
            "keep": bool(self.keep),
            "from_timestep": self.from_timestep is not None,
            "local": self.local is not None,
        }
        if not self.edit and any(shaping.values()):
            raise NoEdit(given=tuple(name for name, said in shaping.items() if said))

    def recipe(self) -> Recipe:
        from w2w_registry.diffusion.generate import Recipe

        edit_from, local = (self.from_timestep, self.local) if self.edit else (None, None)
        recipe = Recipe(self.prompt, self.negative, self.steps, self.guidance, edit_from, local)
        recipe.check()
        return recipe


@dataclass(frozen=True, eq=False)
class Generated(Result):
    """What was drawn, of which version: a file per picture in ``folder``, and their contact sheet."""

    identity: str
    space: str
    folder: str
    files: list[str]
    sheet: str
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One picture to be made: seed, multiple of the edit, θ before and after it, and what was resolved."""

    seed: int
    strength: float
    theta: Vector
    edited: Vector | None
    amounts: Mapping[str, float]


def parse_seeds(text: str) -> tuple[int, ...]:
    """``"1-4,9"`` → ``(1, 2, 3, 4, 9)``.

    Raises:
        UsageError: not of that form, or absurdly many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (p.strip() for p in part.partition("-"))
        if max(len(first), len(last)) > 15 and f"{first}{last}".isdigit():
            raise UsageError(reason=f"{part.strip()[:40]} is too large for a seed: at most 999999999999999")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(reason=f"{text[:40]!r} names no seeds", hint="as in [[seeds]] 1-8 or [[seeds]] 3,7")
        end = int(last) if dash else int(first)
        if end < int(first) or end - int(first) >= MAX_PICTURES:
            raise UsageError(reason=f"{part.strip()} is not a range of seeds")
        seeds += range(int(first), end + 1)
    return tuple(dict.fromkeys(seeds))


def parse_strengths(text: str) -> tuple[float, ...]:
    """``"-1:2:4"`` → four strengths from −1 to 2; ``"0,0.5,1"`` as they are.

    Raises:
        UsageError.
    """
    try:
        if ":" in text:
            first, last, count = text.split(":")
            if not 2 <= int(count) <= 100:
                raise UsageError(reason="a strip has 2 to 100 strengths")
            return tuple(float(v) for v in np.linspace(float(first), float(last), int(count)))
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(reason=f"{text[:40]!r} names no strengths", hint="as in 0:2:5 or 0,0.5,1") from None


def generate(registry: Registry, request: GenerateRequest, progress: Progress = no_progress) -> Generated:
    """Draw and write the pictures; returns where they are.

    Raises:
        ConsentDenied, NotFound, UsageError, DeviceError, StorageError, MissingExtra. OutputInHome: see
        ``check_outputs``; earlier pictures in the folder are replaced by those of the same name.
    """
    require_diffusion()
    from w2w_registry.diffusion.generate import Shot, draw

    began = time.perf_counter()
    request.check()
    check_outputs(registry, Path(request.out), force=True)
    recipe = request.recipe()
    if not request.seeds or len(request.seeds) * len(request.strengths) > MAX_PICTURES:
        raise UsageError(reason=f"between 1 and {MAX_PICTURES} pictures can be drawn at once")
    with registry.catalog.read() as session:
        origin = source(session, version_for(session, request.ref))
    look(registry, [origin.version_id], request.engine.pipeline)
    with registry.catalog.read() as session:
        permission = Permission(Use.GENERATE, versions=[origin.version_id], purpose=request.purpose)
        decision = permission.require(registry, session)
        row, space = open_space_of(registry, session, origin.space_id)
        theta = theta_of(registry, origin, space, row.ref, from_coordinates=request.from_coordinates)
        plan = _plan(session, row, space, origin, theta, request)
    if request.from_coordinates and origin.artifact_digest is not None:
        hold_point(registry, origin, space, operation="generate", pipeline=request.engine.pipeline)
    edited = {d.strength: d.edited for d in plan if d.edited is not None}
    hold_models(
        registry,
        space.layout,
        list(edited.values()),
        base_model=space.base_model,
        path=f"{origin.ref}, edited",
        pipeline=request.engine.pipeline,
    )
    model = request.engine.open(registry, space)
    shots = [Shot(d.theta, d.seed, d.edited) for d in plan]
    with ExitStack() as stack:
        words = [] if request.from_coordinates else _speak(stack, model, text_changes(registry, origin))
        pictures = draw(model, space.layout, shots, recipe, batch=request.batch, progress=progress)
    folder = Path(request.out)
    leaving = _leaving(plan, pictures, origin, row, model, recipe, request)
    ready = outgoing.prepare(registry, leaving)
    with registry.catalog.write(registry.actor) as uow:
        decision = permission.require(registry, uow.session)
        facts = {"pictures": len(pictures), "seeds": list(request.seeds), **gate.evidence(decision)}
        facts |= outgoing.record(uow, ready) | {"seconds": round(time.perf_counter() - began, 3)}
        uow.event("version.generate", {"version": origin.version_id}, **facts)
    *files, sheet = _write(folder, ready)
    return Generated(
        identity=origin.ref,
        space=row.ref,
        folder=str(folder),
        files=files,
        sheet=sheet,
        warnings=[*(str(w) for w in decision.warnings), *words],
    )


def text_changes(registry: Registry, origin: Source) -> list[Change]:
    """What a version's LoRA changes of the text encoders, which its θ does not say."""
    if origin.artifact_digest is None:
        return []
    with registry.artifacts.local(origin.artifact_digest) as path:
        return [change for change in read_adapter(path).changes if change.part.startswith("text_encoder")]


def _speak(stack: ExitStack, model: DiffusionModel, changes: Sequence[Change]) -> list[str]:
    """Change the text encoders until the stack is left; what cannot be applied is told."""
    from w2w_registry.diffusion.merged import merged

    if not changes:
        return []
    try:
        if not all(change.exact for change in changes):
            raise ValueError("its changes depend on the encoder's own weights")
        stack.enter_context(merged(model.pipe, changes))
    except ValueError as error:
        return [f"drawn without what the LoRA changes of the text encoder ({len(changes)} layers): {error}"]
    return []


def _plan(
    session: Any, row: Space, space: WeightSpace, origin: Source, theta: Vector, request: GenerateRequest
) -> list[Drawn]:
    if not request.edit:
        return [Drawn(seed, 0.0, theta, None, {}) for seed in request.seeds]
    plan = []
    for strength in request.strengths:
        move = plan_move(
            session, row, space.component_std, origin.coordinates, request.edit, request.keep, scale=strength
        )
        # The move is linear, so it can be laid upon the LoRA itself: what the space cannot represent of it stays.
        change = space.reconstruct(move.delta) - space.reconstruct(np.zeros_like(move.delta))
        amounts = {name: value * strength for name, value in move.resolved.items()}
        plan += [Drawn(seed, strength, theta, theta + change, amounts) for seed in request.seeds]
    return plan


def _leaving(
    plan: Sequence[Drawn],
    pictures: Sequence[Any],
    origin: Source,
    row: Space,
    model: DiffusionModel,
    recipe: Recipe,
    request: GenerateRequest,
) -> list[Outgoing]:
    """The pictures in order, then their sheet."""
    from w2w_registry.diffusion.images import contact_sheet

    name, _, number = origin.ref.partition("@")
    stem = name.replace("/", "_")
    facts = {
        "ai_generated": True,
        "identity": name,
        "version": int(number),
        "space": row.ref,
        "space_digest": row.digest,
        "prompt": recipe.prompt,
        "negative": recipe.negative,
        "steps": recipe.steps,
        "guidance": recipe.guidance,
        "scheduler": type(model.scheduler).__name__,
        "from": "coordinates" if request.from_coordinates or origin.artifact_digest is None else "lora",
        "models": model.versions() | {"model": _public(model.source)},
    }
    shown = (origin.version_id,)
    leaving = []
    for drawn, picture in zip(plan, pictures, strict=True):
        told = facts | {"seed": drawn.seed}
        suffix = ""
        if drawn.edited is not None:
            told |= {"edit": dict(drawn.amounts), "keep": list(request.keep)}
            told |= {"from_timestep": recipe.edit_from, "local": recipe.local}
            suffix = f"_{drawn.strength:+g}" if len(request.strengths) > 1 else "_edited"
        title = f"{stem}_{drawn.seed}{suffix}.png"
        leaving.append(Outgoing(picture, told, title, "generate", shown, drawn.seed))
    rows, labels, columns = _grid(plan, pictures, request)
    pixels = contact_sheet(rows, row_labels=labels, column_labels=columns)
    told = facts | {"seeds": list(request.seeds), "edit": _words(request.edit)}
    return [*leaving, Outgoing(pixels, told, f"{stem}_sheet.png", "generate", shown)]


def _write(folder: Path, ready: Sequence[Ready]) -> list[str]:
    paths = [folder / r.outgoing.title for r in ready]
    with storing(folder):
        for path, r in zip(paths, ready, strict=True):
            write_atomic(path, r.data)
    return [str(path) for path in paths]


def _grid(
    plan: Sequence[Drawn], pictures: Sequence[Any], request: GenerateRequest
) -> tuple[list[list[Any]], list[str], list[str]]:
    """Rows of pictures with their labels: a strip has a row per seed and a column per strength."""
    if len(request.strengths) > 1 and request.edit:
        by_seed: dict[int, list[Any]] = {}
        for drawn, picture in zip(plan, pictures, strict=True):
            by_seed.setdefault(drawn.seed, []).append(picture)
        what = ", ".join(request.edit)
        columns = [f"{what} ×{s:g}" for s in request.strengths]
        return list(by_seed.values()), [f"seed {s}" for s in by_seed], columns
    columns = [f"seed {s}" for s in request.seeds[:8]]
    chunks = [list(pictures[i : i + 8]) for i in range(0, len(pictures), 8)]
    return chunks, [], columns if len(chunks) == 1 else []


def _public(source: str) -> str:
    """A base model as strangers may read of it: a Hub id, or the folder's name without where it lies."""
    return Path(source).name if Path(source).is_dir() else source


def _words(edit: Amounts) -> dict[str, Any]:
    return {k: ("on" if v else "off") if isinstance(v, bool) else v for k, v in edit.items()}
