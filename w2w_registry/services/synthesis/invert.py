"""Photos become registered identities: inverted into coordinates, recorded with everything that made them so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import InputKind
from w2w_registry.consent.records import Use
from w2w_registry.errors import UsageError
from w2w_registry.records import Kind, OperationKind, Result, check_name, now
from w2w_registry.services.recording import energy
from w2w_registry.services.recording.labels import Labels
from w2w_registry.services.recording.nearest import open_nearest
from w2w_registry.services.recording.sources import Vector, space_input
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.engine import PROMPT, Engine, load_initializer, require_diffusion
from w2w_registry.services.synthesis.new_versions import Draft, Made, Permission, record, said_held

if TYPE_CHECKING:
    from w2w_registry.catalog.models import Space
    from w2w_registry.diffusion.images import Photo
    from w2w_registry.diffusion.initializer import Initializer
    from w2w_registry.diffusion.invert import InvertConfig, Inverted
    from w2w_registry.diffusion.pipeline import DiffusionModel
    from w2w_registry.space.basis import WeightSpace


@dataclass(frozen=True)
class InvertRequest:
    """What ``w2w-reg invert`` was asked. ``photos``: files, or folders of them. ``name``: all show this one identity;
    None = every photo is somebody. ``batch``: photos side by side. ``steps``, ``samples``, ``lr``, ``prior``,
    ``emphasis``: None takes the default."""

    photos: Sequence[str]
    name: str | None = None
    prefix: str = ""
    mask: str | None = None
    space: str | None = None
    components: int | None = None
    prompt: str = PROMPT
    steps: int | None = None
    samples: int | None = None
    lr: float | None = None
    prior: float | None = None
    emphasis: float | None = None
    seed: int = 0
    initializer: bool = True
    batch: int = 8
    kind: str = "person"
    subjects: Sequence[str] = ()
    labels: Labels = field(default_factory=dict)
    purpose: str | None = None
    engine: Engine = field(default_factory=Engine)

    def plan(self) -> list[Sitting]:
        """Who is to be found in which photos: every photo somebody, or with ``name`` one identity in all of them.

        Folders stand for the photos in them.

        Raises:
            UsageError: one name twice. BadName. BadImage: a folder without photos.
        """
        from w2w_registry.diffusion.images import find_photos

        given = [Path(path) for path in self.photos]
        photos = [str(photo) for path in given for photo in (find_photos(path) if path.is_dir() else [path])]
        if self.name is not None:
            return [Sitting(check_name(self.name), tuple(photos))]
        names = [check_name(self.prefix + Path(p).stem) for p in photos]
        if len(set(names)) < len(names):
            raise UsageError(
                reason="two photos would get one name",
                hint="rename them, invert them one by one, or give all photos of one identity its [[name]]",
            )
        return [Sitting(name, (photo,)) for name, photo in zip(names, photos, strict=True)]


@dataclass(frozen=True)
class Sitting:
    """An identity to be, and the photos it is to be found in."""

    name: str
    photos: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Near(Result):
    """The nearest registered identity; ``same_identity``: None in a space that was not calibrated."""

    ref: str
    score: float
    same_identity: bool | None


@dataclass(frozen=True, eq=False)
class Found(Made):
    """A version found in photos (``photos``, the first is ``photo``: SHA-256), and how well it explains them."""

    photo: str
    photos: Sequence[str]
    loss: float
    explained: float
    typicality: float
    converged: bool
    steps: int
    seconds: float
    guessed: bool
    nearest: Near | None
    warnings: Sequence[str]


@dataclass(frozen=True, eq=False)
class _Run:
    """What all batches of one ``invert`` share."""

    registry: Registry
    request: InvertRequest
    row: Space
    space: WeightSpace
    model: DiffusionModel
    config: InvertConfig
    initializer: tuple[Initializer, str] | None
    permission: Permission
    started: datetime
    electricity: energy.Meter


def invert(registry: Registry, request: InvertRequest, progress: Progress = no_progress) -> list[Found]:
    """Find an identity in every photo, or one in all of them, and record each as a version.

    ``request.batch`` photos are inverted side by side, and what is found in them is recorded in one transaction, or
    nothing is. Every photo is looked at before the first is inverted.

    Raises:
        BadImage: a photo or mask that cannot be used. ConsentDenied, NotFound, DeviceError, UsageError, MissingExtra.
    """
    started, electricity = now(), energy.meter()
    require_diffusion()
    from w2w_registry.diffusion.images import load_photo

    sittings, kind = request.plan(), Kind.parse(request.kind)
    row, space = open_space(registry, request.space)
    permission = Permission(Use.INVERT, subjects=request.subjects, kind=kind, spaces=[row.id], purpose=request.purpose)
    permission.require(registry)
    if request.mask is not None and sum(len(s.photos) for s in sittings) != 1:
        raise UsageError(reason="[[mask]] is for one photo")
    model = request.engine.open(registry, space)
    found = load_initializer(registry, row, model.unet_digest) if request.initializer else None
    for sitting in sittings:
        for photo in sitting.photos:
            load_photo(Path(photo), model.image_size)
    run = _Run(
        registry, request, row, space, model, invert_config(request, model), found, permission, started, electricity
    )
    made: list[Found] = []
    for first in range(0, len(sittings), request.batch):
        batch = sittings[first : first + request.batch]

        def tick(done: int, total: int, before: int = first, share: int = len(batch)) -> None:
            progress(before * total + share * done, len(sittings) * total)

        made += _batch(run, batch, tick)
    return made


def _batch(run: _Run, sittings: Sequence[Sitting], progress: Progress) -> list[Found]:
    """Invert side by side and record together."""
    from w2w_registry.diffusion.images import load_mask, load_photo

    request, model, row = run.request, run.model, run.row
    paths = [path for sitting in sittings for path in sitting.photos]
    photos = [load_photo(Path(path), model.image_size) for path in paths]
    mask = None if request.mask is None else load_mask(Path(request.mask), Path(paths[0]), model.image_size)
    together = len(sittings) < len(paths)
    answers = solve(
        model,
        run.space,
        photos,
        None if mask is None else mask[0],
        run.config,
        prompt=request.prompt,
        components=request.components,
        initializer=None if run.initializer is None else run.initializer[0],
        together=together,
        progress=progress,
    )
    drafts = []
    shown = [photos] if together else [[photo] for photo in photos]
    for place, (sitting, seen, answer) in enumerate(zip(sittings, shown, answers, strict=True)):
        activity = _activity(run, sitting, seen, answer, None if mask is None else mask[1], len(sittings), place)
        point = padded(answer.coordinates, run.space.k)
        drafts.append(Draft(sitting.name, Kind.parse(request.kind), point, activity, request.subjects, request.labels))
    decision = run.permission.require(run.registry)
    made = record(run.registry, row, run.space, drafts, run.permission, request.engine.pipeline)
    nearest = _nearest(run.registry, row, [d.coordinates for d in drafts], {m["ref"] for m in made})
    found = []
    for one, seen, answer, near in zip(made, shown, answers, nearest, strict=True):
        notes = [note for photo in seen for note in photo.notes]
        inverted = Found(
            **vars(one),
            photo=seen[0].sha256,
            photos=[photo.sha256 for photo in seen],
            loss=answer.loss,
            explained=answer.explained,
            typicality=answer.typicality,
            converged=answer.converged,
            steps=answer.steps,
            seconds=answer.seconds,
            guessed=run.initializer is not None,
            nearest=near,
            warnings=[*said_held([one]), *notes, *answer.warnings(), *(str(w) for w in decision.warnings)],
        )
        found.append(inverted)
    return found


def _activity(
    run: _Run,
    sitting: Sitting,
    photos: Sequence[Photo],
    answer: Inverted,
    mask: str | None,
    side_by_side: int,
    place: int,
) -> Activity:
    """The record of one identity found: its photos, and every parameter that the result depends on."""
    request = run.request
    inputs = [
        Input("photo", InputKind.PHOTO, digest=photo.sha256, ref=Path(path).name)
        for path, photo in zip(sitting.photos, photos, strict=True)
    ]
    if mask is not None:
        inputs.append(Input("mask", InputKind.FILE, digest=mask, ref=Path(str(request.mask)).name))
    params: dict[str, Any] = {"config": run.config.to_json(), "components": request.components or run.space.k}
    params |= {"prompt": request.prompt, "guess": None if run.initializer is None else run.initializer[1]}
    # Rounding depends on how many are computed side by side, and where among them one stands.
    params |= {"photos_in_batch": side_by_side, "place_in_batch": place}
    if len(photos) > 1:
        params["photos_together"] = len(photos)
    params["result"] = {"loss": answer.loss, "steps": answer.steps, "converged": answer.converged}
    models = {**run.model.versions(), **run.model.parts}
    inputs.append(space_input(run.row))
    used = run.electricity.lap()  # of photos side by side, the first bears it all
    return Activity(OperationKind.INVERT, run.started, params, inputs, request.seed, models, used)


def invert_config(request: InvertRequest, model: DiffusionModel) -> InvertConfig:
    """The default settings with what was asked for; bfloat16 where it is a gain."""
    from w2w_registry.diffusion.invert import InvertConfig
    from w2w_registry.diffusion.pipeline import fast_bf16

    asked = {
        "steps": request.steps,
        "samples": request.samples,
        "lr": request.lr,
        "prior": request.prior,
        "emphasis": request.emphasis,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    return InvertConfig(**given, seed=request.seed, bf16=fast_bf16(model.device))


def solve(
    model: DiffusionModel,
    space: WeightSpace,
    photos: Sequence[Photo],
    mask: NDArray[np.float32] | None,
    config: InvertConfig,
    *,
    prompt: str,
    components: int | None,
    initializer: Initializer | None,
    together: bool = False,
    progress: Progress = no_progress,
) -> list[Inverted]:
    """Invert the photos side by side (``together``: into one identity), started where the initializer says if there is
    one; ``mask`` (H, W) is for one photo.

    Raises:
        DeviceError, UsageError.
    """
    from w2w_registry.diffusion.initializer import features
    from w2w_registry.diffusion.invert import SpaceBasis, invert, latent_masks

    basis = SpaceBasis.of(
        space.layout,
        space.mean,
        space.std,
        space.components,
        space.component_std,
        device=model.device,
        count=components,
        dtype=model.dtype,
    )
    words = model.encode_text(prompt)
    latents = model.encode_images(np.stack([p.pixels for p in photos]))
    start = None if initializer is None else initializer.fitted_to(basis.k)(features(model, latents, words))
    masks = None if mask is None else latent_masks(model, np.stack([mask] * len(photos)))
    if together:
        latents = latents[None]
        start = None if start is None else replace(start, white=start.white.mean(0, keepdim=True))
    return invert(
        model,
        basis,
        latents,
        words,
        config,
        masks=masks,
        initial=start,
        progress=lambda done, total, _loss: progress(done, total),
    )


def padded(coordinates: Vector, k: int) -> Vector:
    """Coordinates (k,) from the leading ones; the rest lie at the centre."""
    full = np.zeros(k, np.float32)
    full[: len(coordinates)] = coordinates
    return full


def _nearest(registry: Registry, row: Space, coordinates: Sequence[Vector], own: set[str]) -> list[Near | None]:
    """The nearest registered identity of each point that is not one of those just made."""
    out: list[Near | None] = []
    with registry.catalog.read() as session:
        index = open_nearest(registry, session, row)
        ids, scores = index.search(np.stack(coordinates), len(own) + 1)
        refs = refs_of(session, {int(i) for i in ids.ravel()})
        for versions, values in zip(ids, scores, strict=True):
            best = None
            for version_id, value in zip(versions, values, strict=True):
                ref = str(refs.get(int(version_id), ""))
                if ref and ref not in own:
                    threshold = row.calibration.get("threshold")
                    best = Near(ref, float(value), None if threshold is None else bool(value >= threshold))
                    break
            out.append(best)
    return out
