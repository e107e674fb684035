"""The base model of a space, opened; and what the registry has learned about looking at photos with it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.resolve import default_space, version_for
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadImage, MissingExtra, NotFound, UsageError
from w2w_registry.records import Result, digest_of
from w2w_registry.services.consent import gate
from w2w_registry.services.recording.fingerprints import Prober, opener, prober_of
from w2w_registry.services.recording.pipelines import to_open
from w2w_registry.services.recording.sources import Source, source, theta_of
from w2w_registry.services.recording.spaces import load_space, open_space
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.directions import labelled
from w2w_registry.space.basis import WeightSpace

if TYPE_CHECKING:
    from w2w_registry.catalog.models import Space
    from w2w_registry.diffusion.initializer import Initializer
    from w2w_registry.diffusion.pipeline import DiffusionModel

PROMPT: Final = "photo of sks person"
"""What the LoRAs of a space are usually trained with; ``--prompt`` says otherwise."""
PEOPLE_AT_ONCE: Final = 16


@dataclass(frozen=True)
class Engine:
    """How to run the base model. ``pipeline``: a folder or Hub id instead of the space's own base model id."""

    pipeline: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def open(self, registry: Registry, space: WeightSpace) -> DiffusionModel:
        """The base model of ``space``: where the registry's settings say it is, when no ``pipeline`` is said.

        Raises:
            MissingExtra, NotFound, DeviceError, UsageError.
        """
        require_diffusion()
        from w2w_registry.diffusion.pipeline import load_model

        name, local = to_open(registry, space.base_model, self.pipeline)
        revision = space.base_revision if name == space.base_model else None
        model = load_model(name, revision=revision, device=self.device, dtype=self.dtype, local=local)
        model.bank(space.layout)
        return model


@dataclass(frozen=True)
class WarmEngine(Engine):
    """An engine for a process that stays: the base model of a space is opened once and kept, the last ``most``.

    One thread at a time may use what it opens: whoever does holds ``lock``.
    """

    most: int = 1
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    _kept: dict[tuple[str, str], DiffusionModel] = field(default_factory=dict, repr=False, compare=False)

    def open(self, registry: Registry, space: WeightSpace) -> DiffusionModel:
        """As ``Engine.open``."""
        key = (self.pipeline or space.base_model, space.layout.digest)
        model = self._kept.pop(key, None) or super().open(registry, space)
        self._kept[key] = model
        while len(self._kept) > self.most:
            del self._kept[next(iter(self._kept))]
        return model

    def prober(self, registry: Registry) -> Prober:
        """The base model as fingerprints are taken with it: the one that draws, where that is in float32.

        Raises:
            MissingExtra, NotFound, DeviceError, UsageError: there is none.
        """
        require_diffusion()
        with registry.catalog.read() as session:
            row = default_space(session)
        if row is not None:
            model = self.open(registry, load_space(registry.artifacts, row))
            if str(model.dtype) == "torch.float32":
                return prober_of(model)
        return opener(registry, self.pipeline, self.device)()


def require_diffusion() -> None:
    """Raises MissingExtra when torch or diffusers is not installed."""
    from importlib.util import find_spec

    for package in ("torch", "diffusers", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra(package=package, extra="diffusion", feature="working with pictures")


# -- the initializer ---------------------------------------------------------------------------------
def initializer_path(registry: Registry, space: Space, unet_digest: str) -> Path:
    """Where the initializer for one space and base model is kept: a cache, made again with ``initializer fit``."""
    return registry.settings.initializers_dir / f"{space.digest[:24]}-{unet_digest[:24]}.safetensors"


def load_initializer(registry: Registry, space: Space, unet_digest: str) -> tuple[Initializer, str] | None:
    """The initializer and its digest, or None when none was fitted."""
    from safetensors.numpy import load_file

    from w2w_registry.diffusion.initializer import Initializer

    path = initializer_path(registry, space, unet_digest)
    if not path.exists():
        return None
    tensors = load_file(str(path))
    return Initializer.from_tensors(tensors), _digest(tensors)


def initializer_for(registry: Registry, space: Space, model: DiffusionModel) -> tuple[Initializer, str] | None:
    """As ``load_initializer``, for an open model, whose weights are hashed only where one for the space is kept."""
    if not any(registry.settings.initializers_dir.glob(f"{space.digest[:24]}-*")):
        return None
    return load_initializer(registry, space, model.unet_digest)


@dataclass(frozen=True, eq=False)
class GuessFitted(Result):
    """An initializer that was fitted, and the share of the variance it predicts."""

    space: str
    identities: int
    pictures: int
    skipped: int
    components: int
    explained: float
    digest: str


def fit_initializer(
    registry: Registry,
    space_ref: str | None,
    engine: Engine,
    *,
    photos: str | None = None,
    drawn: int = 0,
    prompt: str = PROMPT,
    components: int | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> GuessFitted:
    """Learn to estimate coordinates from photos of registered identities, from pictures drawn of them, or both.

    Args:
        photos: a folder with a folder of photos per identity, named as the identity is.
        drawn: how many pictures to draw of each registered identity.
        components: how many to estimate (the leading ones carry what a photo shows); all by default.

    Raises:
        UsageError: fewer than twenty identities. BadImage, NotFound, DeviceError.
    """
    from w2w_registry.diffusion.initializer import features
    from w2w_registry.diffusion.initializer import fit_initializer as fit

    if not photos and drawn < 1:
        raise UsageError(reason="say what to learn from: [[photos]] FOLDER, or [[drawn]] 4")
    row, space = open_space(registry, space_ref)
    model = engine.open(registry, space)
    folders = {} if photos is None else photo_folders(Path(photos))
    people, skipped = _allowed(
        registry, row, sorted(folders) if folders else None, Use.GENERATE if drawn else Use.INVERT
    )
    if not people:
        raise UsageError(reason=f"no registered identity to learn from ({skipped} not allowed by consent)")
    k = components or space.k
    scale = np.maximum(space.component_std, 1e-6 * float(space.component_std.max()))[:k]
    rows, white, who = [], [], []
    for start in range(0, len(people), PEOPLE_AT_ONCE):
        part = people[start : start + PEOPLE_AT_ONCE]
        pictures = _pictures(registry, part, space, row.ref, model, folders, drawn, prompt, seed + start)
        rows.append(features(model, model.encode_images(np.concatenate(pictures)), model.encode_text(prompt)))
        for number, (person, own) in enumerate(zip(part, pictures, strict=True), start=start):
            white.append(np.repeat((person.coordinates[:k] / scale)[None], len(own), axis=0))
            who.append(np.full(len(own), number))
        progress(start + len(part), len(people))
    fitted = fit(np.concatenate(rows), np.concatenate(white).astype(np.float32), np.concatenate(who), seed=seed)
    digest = _keep_initializer(initializer_path(registry, row, model.unet_digest), fitted)
    certain = 1.0 - np.minimum(fitted.variance, 1.0)
    return GuessFitted(
        space=row.ref,
        identities=len(people),
        pictures=sum(len(r) for r in rows),
        skipped=skipped,
        components=k,
        explained=float((certain * scale**2).sum() / (scale**2).sum()),
        digest=digest,
    )


def _keep_initializer(path: Path, fitted: Initializer) -> str:
    """Write what was learned; returns its digest."""
    from safetensors.numpy import save

    tensors = fitted.to_tensors()
    write_atomic(path, save({n: np.ascontiguousarray(a) for n, a in tensors.items()}))
    return _digest(tensors)


def photo_folders(root: Path) -> dict[str, Path]:
    """Identity name → folder of photos.

    Raises:
        BadImage: no folders there.
    """
    found = {p.name: p for p in sorted(root.iterdir()) if p.is_dir()} if root.is_dir() else {}
    if not found:
        raise BadImage(path=str(root), reason="no folders of photos there", hint="one folder per identity")
    return found


def _allowed(registry: Registry, row: Space, names: Sequence[str] | None, use: Use) -> tuple[list[Source], int]:
    """Registered identities (of these names) whose consent allows ``use``, and how many it does not allow."""
    people: list[Source] = []
    skipped = 0
    with registry.catalog.read() as session:
        if names is None:
            versions = list(versions_by_id(session, labelled(session, row).version_ids).values())
        else:
            versions = []
            for name in names:
                try:
                    versions.append(version_for(session, name))
                except NotFound:
                    continue  # photos of somebody who is not registered
        for version in versions:
            if gate.ask(registry, use, versions=[version.id], session=session).allowed:
                people.append(source(session, version, row))
            else:
                skipped += 1
    return people, skipped


def _pictures(
    registry: Registry,
    people: Sequence[Source],
    space: WeightSpace,
    ref: str,
    model: DiffusionModel,
    folders: dict[str, Path],
    drawn: int,
    prompt: str,
    seed: int,
) -> list[Any]:
    """Photos and drawn pictures (P, H, W, 3) of each person."""
    from w2w_registry.diffusion.generate import Recipe, Shot, draw
    from w2w_registry.diffusion.images import find_photos, load_photo

    pictures: list[list[Any]] = []
    shots = []
    for number, person in enumerate(people):
        folder = folders.get(person.ref.partition("@")[0])
        found = [] if folder is None else find_photos(folder)
        pictures.append([load_photo(p, model.image_size).pixels for p in found])
        if drawn:
            theta = theta_of(registry, person, space, ref, from_coordinates=False)
            shots += [Shot(theta, (seed + number) * 1000 + i) for i in range(drawn)]
    for i, picture in enumerate(draw(model, space.layout, shots, Recipe(prompt, steps=20))):
        pictures[i // drawn].append(picture)
    return [np.stack(own) for own in pictures]


def _digest(tensors: dict[str, Any]) -> str:
    return digest_of({name: array.tobytes() for name, array in tensors.items()})
