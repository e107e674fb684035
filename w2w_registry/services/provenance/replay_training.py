"""Running a training or an inversion again: its photos found by digest, its base model opened, the same steps taken.

The registry keeps the digests of photos only, so whoever asks says where they lie. Everything else is on record:
settings, seed, prompt, start, base model, and what decides rounding: device, precision, threads, how many identities
were computed side by side and where among them this one stood. The others are not needed: with copies of this one in
their places every number of its own comes out the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import subjects_of
from w2w_registry.catalog.models import Space, Version
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadImage, DeviceError, MissingExtra
from w2w_registry.files import sha256_file
from w2w_registry.lora import model_digest
from w2w_registry.provenance.graph import Input, OperationNode
from w2w_registry.provenance.replay import ReplayStep
from w2w_registry.records import Kind, digest_of
from w2w_registry.services.recording.sources import Vector, open_space_of
from w2w_registry.services.registry import Progress, Registry
from w2w_registry.services.synthesis import training
from w2w_registry.services.synthesis.engine import Engine, initializer_path, load_initializer, require_diffusion
from w2w_registry.services.synthesis.invert import padded, solve
from w2w_registry.services.synthesis.new_versions import Permission
from w2w_registry.space.basis import WeightSpace

if TYPE_CHECKING:
    from w2w_registry.diffusion.images import Photo
    from w2w_registry.diffusion.pipeline import DiffusionModel

_C = TypeVar("_C")
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
"""Networks of a base model whose digests are recorded."""


class Impossible(Exception):
    """A replay that cannot be performed, and why; never leaves the services."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Given:
    """What the person who asks brings along. ``photos``: files, and folders that are looked through with all below.

    ``pipeline``, ``device``, ``dtype``: None means as recorded.
    """

    photos: Sequence[str] = ()
    mask: str | None = None
    pipeline: str | None = None
    device: str | None = None
    dtype: str | None = None
    purpose: str | None = None


@dataclass(frozen=True)
class Found:
    """Files by the digests looked for, and for those not found the files that bear the recorded name (with theirs)."""

    paths: Mapping[str, Path]
    namesakes: Mapping[str, tuple[Path, str]]
    looked_at: int


@dataclass(frozen=True, eq=False)
class Result:
    """What came out: coordinates (k,), the digest of the LoRA when it is more than they say, remarks."""

    coordinates: Vector
    model_digest: str | None = None
    notes: tuple[str, ...] = ()


def find_files(places: Sequence[str], wanted: Mapping[str, str | None]) -> Found:
    """Look for files with these SHA-256 digests (→ their recorded names) in files and folders.

    Files with a recorded name are read first, and no more than needed.

    Raises:
        BadImage: a place that is not there, or a file that cannot be read.
    """
    names = {name for name in wanted.values() if name is not None}
    files = list(dict.fromkeys(path for place in places for path in _files(Path(place))))
    files.sort(key=lambda path: path.name not in names)
    paths: dict[str, Path] = {}
    namesakes: dict[str, tuple[Path, str]] = {}
    for path in files:
        if len(paths) == len(wanted):
            break
        digest = sha256_file(path, BadImage)
        if digest in wanted:
            paths.setdefault(digest, path)
        elif path.name in names:
            namesakes.setdefault(path.name, (path, digest))
    others = {d: namesakes[n] for d, n in wanted.items() if d not in paths and n in namesakes}
    return Found(paths, others, len(files))


def _files(place: Path) -> list[Path]:
    from w2w_registry.diffusion.images import SUFFIXES

    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BadImage(path=str(place), reason="no such file or folder")
    return sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


@dataclass(frozen=True, eq=False)
class Rerun:
    """A training or inversion ready to run again, or what is missing for it (``steps``, ``missing``)."""

    operation: OperationNode
    space: Space
    place: int
    side_by_side: int
    permission: Permission
    found: Found
    given: Given
    steps: tuple[ReplayStep, ...]
    surroundings: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether rounding is settled by what is on record: on a CPU, with its kind and the threads noted."""
        recorded = self.operation.models
        return self.surroundings.get("device") == "cpu" and {"hardware", "threads"} <= set(recorded)

    def missing(self, kind: str, name: str | None, digest: str | None) -> str | None:
        """What stands in the way of using this photo or mask; None when it was found."""
        if digest is None or digest in self.found.paths:
            return None
        what = f"{kind if kind == 'photo' else 'mask'} {name or 'without a name'} (sha256 {digest})"
        if digest in self.found.namesakes:
            path, other = self.found.namesakes[digest]
            return f"{what} is not there: {path} has its name but another content ({other[:12]}…)"
        if not self.found.looked_at:
            return f"{what} is not kept here: say where the photos or the mask are"
        return f"{what} is not among the {self.found.looked_at} files given"

    def run(self, registry: Registry, progress: Progress) -> Result:
        """Compute it again.

        Raises:
            Impossible: what was found is not what was used. ConsentDenied. BadImage, DeviceError, MissingExtra.
        """
        from w2w_registry.diffusion.pipeline import threads

        self.permission.require(registry)
        with registry.catalog.read() as session:
            _, space = open_space_of(registry, session, self.space.id)
        model = self._model(registry, space)
        with threads(int(self.operation.models.get("threads", 0))):
            again = _train if self.operation.kind == "train" else _invert
            return again(self, registry, space, model, progress)

    def photos(self, model: DiffusionModel) -> list[Photo]:
        from w2w_registry.diffusion.images import load_photo

        paths = [self.found.paths[item.digest or ""] for item in _of_role(self.operation, "photo")]
        return [load_photo(path, model.image_size) for path in paths]

    def _model(self, registry: Registry, space: WeightSpace) -> DiffusionModel:
        recorded = self.operation.models
        own = self.given.pipeline or (None if recorded.get("model") == space.base_model else recorded.get("model"))
        now = self.surroundings
        engine = Engine(own, cast(Any, now.get("device", "auto")), cast(Any, now.get("dtype", "auto")))
        model = engine.open(registry, space)
        if now.get("dtype") != recorded.get("dtype"):
            return model  # weights of another precision have other digests
        for part, digest in _parts(self.operation).items():
            found = model.parts.get(part)
            if found != digest:
                reason = (
                    f"the {part.replace('_', ' ')} of {model.source} is another: {_head(found)}, was {_head(digest)}"
                )
                raise Impossible(reason)
        return model


def prepare(registry: Registry, session: Session, version: Version, operation: OperationNode, given: Given) -> Rerun:
    """Find what a training or inversion was made from, and say what is missing.

    Raises:
        BadImage: a place to look in that is not there.
    """
    row = session.get_one(Space, version.space_id)
    inputs = (*_of_role(operation, "photo"), *_of_role(operation, "mask"))
    wanted = {item.digest: item.name for item in inputs if item.digest is not None}
    places = (*given.photos, *([given.mask] if given.mask else []))
    surroundings, lacking = _surroundings(operation, given)
    base = given.pipeline or str(operation.models.get("model") or version.base_model)
    steps = [ReplayStep("load", f"base model {base}", lacking or _lost_model(base))]
    place, side_by_side, remarks = 0, 1, []
    parameters = operation.parameters
    if operation.kind == "train":
        side_by_side = int(parameters.get("identities_in_batch", 1))
        place = int(parameters.get("place_in_batch", 0))
        steps.append(ReplayStep("load", "the LoRA it started from", _lost_start(registry, session, row, operation)))
        if side_by_side > 1 and "place_in_batch" not in parameters:
            old = f"recorded before trainings noted their place among the {side_by_side} trained together"
            steps.append(ReplayStep("place", "it among those trained with it", old))
    else:
        side_by_side, place = int(parameters.get("photos_in_batch", 1)), int(parameters.get("place_in_batch", 0))
        if parameters.get("guess") is not None:
            digest = str(parameters["guess"])
            steps.append(
                ReplayStep("load", f"initializer {digest[:12]}", _lost_initializer(registry, row, operation, digest))
            )
        if "photos_in_batch" not in parameters:
            remarks.append("recorded before inversions noted how many ran side by side: taken to be one")
    use = Use.TRAIN if operation.kind == "train" else Use.INVERT
    subjects = subjects_of(session, [version.id]).get(version.id, ())
    kind: Kind = version.identity.kind
    permission = Permission(use, subjects=subjects, kind=kind, spaces=[row.id], purpose=given.purpose)
    found = find_files(places, wanted)
    return Rerun(
        operation, row, place, side_by_side, permission, found, given, tuple(steps), surroundings, tuple(remarks)
    )


def _surroundings(operation: OperationNode, given: Given) -> tuple[dict[str, str], str | None]:
    """Libraries, device and precision the replay runs with, as far as they were recorded; what is not installed."""
    try:
        require_diffusion()
    except MissingExtra as error:
        return {}, f"the package {error.package} is not installed: pip install 'w2w-registry[{error.extra}]'"
    from w2w_registry.diffusion.pipeline import pick_device, pick_dtype, surroundings

    recorded = operation.models
    asked = given.device or recorded.get("device", "auto")
    try:
        device = pick_device(cast(Any, asked))
    except DeviceError:
        if given.device is not None:
            raise
        device = pick_device("cpu")
    found = surroundings(device, pick_dtype(device, cast(Any, given.dtype or recorded.get("dtype", "auto"))))
    # As many threads as then are used, whatever is set now.
    found.pop("threads", None)
    return found, None


def _lost_model(base: str) -> str | None:
    if Path(base).is_absolute() and not Path(base).is_dir():
        return f"{base} is gone: say where the pipeline of the base model is"
    return None


def _lost_start(registry: Registry, session: Session, row: Space, operation: OperationNode) -> str | None:
    """What is wrong with a training's start: the space's mean, or an initialisation by its seed."""
    if "init_seed" in operation.parameters:
        return None
    _, space = open_space_of(registry, session, row.id)
    if digest_of(np.array(space.mean).tobytes()) == operation.parameters.get("init"):
        return None
    return "recorded before trainings noted the seed of the start they were given"


def _lost_initializer(registry: Registry, row: Space, operation: OperationNode, digest: str) -> str | None:
    unet = str(operation.models.get("unet"))
    if not initializer_path(registry, row, unet).exists():
        return "its initializer is gone (`initializer fit` makes one, but the same only from the same pictures)"
    found = load_initializer(registry, row, unet)
    if found is None or found[1] != digest:
        return "its initializer was fitted again since"
    return None


def _train(rerun: Rerun, registry: Registry, space: WeightSpace, model: DiffusionModel, progress: Progress) -> Result:
    from w2w_registry.diffusion.train import TrainConfig

    parameters, layout = rerun.operation.parameters, space.layout
    config = _config(TrainConfig, parameters["config"])
    theta0 = training.start_of(layout, space, parameters.get("init_seed"))
    if digest_of(theta0.tobytes()) != parameters["init"]:
        raise Impossible("the start is not what it was: this torch draws other numbers from the same seed")
    own = np.stack([photo.pixels for photo in rerun.photos(model)])
    dealt = np.resize(own, (int(parameters.get("photos_dealt", len(own))), *own.shape[1:]))
    count, prompt = parameters["prior"] or (0, "")
    theta, _ = training.solve(
        model,
        layout,
        theta0,
        [dealt] * rerun.side_by_side,
        model.encode_text(parameters["prompt"]),
        config,
        prior=training.prior_pictures(model, layout, count, prompt, rerun.operation.seed or 0),
        tick=lambda step, _: progress(step, config.steps),
    )
    # Projected together as they were then: one row alone may round otherwise.
    coordinates = space.project(space.in_gauge(theta))[rerun.place]
    return Result(np.asarray(coordinates, np.float32), model_digest(theta[rerun.place], layout), rerun.remarks)


def _invert(rerun: Rerun, registry: Registry, space: WeightSpace, model: DiffusionModel, progress: Progress) -> Result:
    from w2w_registry.diffusion.images import load_mask
    from w2w_registry.diffusion.invert import InvertConfig

    parameters = rerun.operation.parameters
    photos = rerun.photos(model)
    together = len(photos) > 1
    mask = None
    for item in _of_role(rerun.operation, "mask"):
        mask, _ = load_mask(rerun.found.paths[item.digest or ""], rerun.found.paths[photos[0].sha256], model.image_size)
    found = load_initializer(registry, rerun.space, model.unet_digest) if parameters.get("guess") else None
    answers = solve(
        model,
        space,
        photos if together else photos * rerun.side_by_side,
        mask,
        _config(InvertConfig, parameters["config"]),
        prompt=parameters["prompt"],
        components=parameters["components"],
        initializer=None if found is None else found[0],
        together=together,
        progress=progress,
    )
    return Result(padded(answers[rerun.place].coordinates, space.k), notes=rerun.remarks)


def _config(kind: type[_C], recorded: Mapping[str, Any]) -> _C:
    """Settings as they were recorded; JSON's lists are tuples again."""
    unknown = sorted(set(recorded) - {f.name for f in fields(cast(Any, kind))})
    if unknown:
        raise Impossible(f"its settings are of another version of this program: {', '.join(unknown)}")
    silent = sorted({f.name for f in fields(cast(Any, kind))} - set(recorded))
    if silent:
        raise Impossible(f"recorded before there was a setting for {', '.join(silent)}")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()})


def _parts(operation: OperationNode) -> dict[str, str]:
    """Recorded digests of the base model's networks; older trainings noted the UNet among their parameters."""
    found = {part: str(operation.models[part]) for part in PARTS if part in operation.models}
    if "unet" in operation.parameters:
        found.setdefault("unet", str(operation.parameters["unet"]))
    return found


def _of_role(operation: OperationNode, role: str) -> list[Input]:
    return [item for item in operation.inputs if item.role == role]


def _head(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:12]}…"
