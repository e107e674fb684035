"""One photo becomes a registered identity: inverted into coordinates, recorded with everything that made it so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import InputKind
from w2w_registry.consent.records import Use
from w2w_registry.errors import UsageError
from w2w_registry.records import Kind, OperationKind, check_name, now
from w2w_registry.services.recording.labels import Labels
from w2w_registry.services.recording.nearest import open_nearest
from w2w_registry.services.recording.sources import Vector, space_input
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.engine import PROMPT, Engine, load_guess, require_diffusion
from w2w_registry.services.synthesis.new_versions import Draft, Permission, record

if TYPE_CHECKING:
    from w2w_registry.catalog.models import Space
    from w2w_registry.diffusion.images import Photo
    from w2w_registry.diffusion.initializer import GuessModel
    from w2w_registry.diffusion.invert import InvertConfig, Inverted
    from w2w_registry.diffusion.pipeline import DiffusionModel
    from w2w_registry.space.basis import WeightSpace


@dataclass(frozen=True)
class InvertRequest:
    """What ``w2w-reg invert`` was asked. ``steps``, ``samples``, ``rate``, ``prior``, ``emphasis``: None takes the
    default."""

    photos: Sequence[str]
    name: str | None = None
    prefix: str = ""
    mask: str | None = None
    space: str | None = None
    components: int | None = None
    prompt: str = PROMPT
    steps: int | None = None
    samples: int | None = None
    rate: float | None = None
    prior: float | None = None
    emphasis: float | None = None
    seed: int = 0
    use_guess: bool = True
    kind: str = "person"
    subjects: Sequence[str] = ()
    labels: Labels = field(default_factory=dict)
    purpose: str | None = None
    engine: Engine = field(default_factory=Engine)

    def names(self) -> list[str]:
        """What each photo's identity is to be called.

        Raises:
            UsageError: one name for several photos, or one name twice. BadName.
        """
        if self.name is not None:
            if len(self.photos) != 1:
                raise UsageError(
                    reason=f"[[name]] is for one photo, {len(self.photos)} were given", hint="try [[prefix]]"
                )
            return [check_name(self.name)]
        names = [check_name(self.prefix + Path(p).stem) for p in self.photos]
        if len(set(names)) < len(names):
            raise UsageError(reason="two photos would get one name", hint="rename them or invert them one by one")
        return names


def invert(registry: Registry, request: InvertRequest, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """Invert every photo and record each as a version; all in one transaction, or none.

    Raises:
        BadImage: a photo or mask that cannot be used. ConsentDenied, NotFound, DeviceError, UsageError, MissingExtra.
    """
    started = now()
    require_diffusion()
    from w2w_registry.diffusion.images import load_mask, load_photo

    names, kind = request.names(), Kind.parse(request.kind)
    row, space = open_space(registry, request.space)
    permission = Permission(Use.INVERT, subjects=request.subjects, kind=kind, spaces=[row.id], purpose=request.purpose)
    decision = permission.require(registry)
    if request.mask is not None and len(request.photos) != 1:
        raise UsageError(reason="[[mask]] is for one photo")
    model = request.engine.open(space)
    found = load_guess(registry, row, model.unet_digest) if request.use_guess else None
    photos = [load_photo(Path(p), model.image_size) for p in request.photos]
    mask = None if request.mask is None else load_mask(Path(request.mask), Path(request.photos[0]), model.image_size)
    config = invert_config(request, model)
    answers = solve(
        model,
        space,
        photos,
        None if mask is None else mask[0],
        config,
        prompt=request.prompt,
        components=request.components,
        guess=None if found is None else found[0],
        progress=progress,
    )
    k = request.components or space.k
    drafts = []
    for place, (name, path, photo, answer) in enumerate(zip(names, request.photos, photos, answers, strict=True)):
        inputs = [Input("photo", InputKind.PHOTO, digest=photo.sha256, ref=Path(path).name)]
        if mask is not None:
            inputs.append(Input("mask", InputKind.FILE, digest=mask[1], ref=Path(str(request.mask)).name))
        params = {"config": config.to_json(), "components": k, "prompt": request.prompt}
        params["guess"] = None if found is None else found[1]
        # Rounding depends on how many are computed side by side, and where among them one stands.
        params |= {"photos_in_batch": len(photos), "place_in_batch": place}
        params["result"] = {"loss": answer.loss, "steps": answer.steps, "converged": answer.converged}
        models = {**model.versions(), **model.parts}
        activity = Activity(OperationKind.INVERT, started, params, (*inputs, space_input(row)), request.seed, models)
        drafts.append(
            Draft(name, kind, padded(answer.coordinates, space.k), activity, request.subjects, request.labels)
        )
    made = record(registry, row, space, drafts, permission)
    nearest = _nearest(registry, row, [d.coordinates for d in drafts], {m["ref"] for m in made})
    for entry, photo, answer, near in zip(made, photos, answers, nearest, strict=True):
        entry |= {
            "photo": photo.sha256,
            "loss": answer.loss,
            "explained": answer.explained,
            "typicality": answer.typicality,
            "converged": answer.converged,
            "steps": answer.steps,
            "seconds": answer.seconds,
            "guessed": found is not None,
            "nearest": near,
            "warnings": [*photo.notes, *answer.warnings(), *(str(w) for w in decision.warnings)],
        }
    return made


def invert_config(request: InvertRequest, model: DiffusionModel) -> InvertConfig:
    """The default settings with what was asked for; bfloat16 where it is a gain."""
    from w2w_registry.diffusion.invert import InvertConfig
    from w2w_registry.diffusion.pipeline import fast_bf16

    asked = {
        "steps": request.steps,
        "samples": request.samples,
        "lr": request.rate,
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
    guess: GuessModel | None,
    progress: Progress = no_progress,
) -> list[Inverted]:
    """Invert the photos side by side, started at the guess when there is one; ``mask`` (H, W) is for one photo.

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
    start = None if guess is None else guess.fitted_to(basis.k)(features(model, latents, words))
    masks = None if mask is None else latent_masks(model, np.stack([mask] * len(photos)))
    return invert(
        model,
        basis,
        latents,
        words,
        config,
        masks=masks,
        guess=start,
        progress=lambda done, total, _loss: progress(done, total),
    )


def padded(coordinates: Vector, k: int) -> Vector:
    """Coordinates (k,) from the leading ones; the rest lie at the centre."""
    full = np.zeros(k, np.float32)
    full[: len(coordinates)] = coordinates
    return full


def _nearest(
    registry: Registry, row: Space, coordinates: Sequence[Vector], own: set[str]
) -> list[dict[str, Any] | None]:
    """The nearest registered identity of each point that is not one of those just made."""
    out: list[dict[str, Any] | None] = []
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
                    best = {"ref": ref, "score": float(value)}
                    best["same_identity"] = None if threshold is None else bool(value >= threshold)
                    break
            out.append(best)
    return out
