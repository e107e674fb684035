"""Photos become LoRAs: DreamBooth for one or many identities in one batch, registered, written out, or both.

A killed run goes on where it was: the state of every batch is kept in the registry's folder until the whole command is
done, under a digest of everything that affects the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog.lookup import refs_of, versions_by_model
from w2w_registry.catalog.models import InputKind
from w2w_registry.consent.records import Use
from w2w_registry.errors import UsageError, storing
from w2w_registry.lora import lora_files, model_digest
from w2w_registry.records import Kind, OperationKind, Result, check_name, digest_of
from w2w_registry.services.consent.results import hold_models
from w2w_registry.services.recording.labels import Labels
from w2w_registry.services.recording.sources import space_input
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.recording.workers import BaseModel, mapped
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.engine import PROMPT, Engine, require_diffusion
from w2w_registry.services.synthesis.new_versions import Draft, Permission, record, said_held
from w2w_registry.services.synthesis.training import Batch, Solved, Training, own_layout, prior_pictures, start_of
from w2w_registry.space.layout import Layout

if TYPE_CHECKING:
    from w2w_registry.catalog.models import Space
    from w2w_registry.diffusion.families import Conditioning
    from w2w_registry.diffusion.pipeline import DiffusionModel
    from w2w_registry.diffusion.train import TrainConfig
    from w2w_registry.space.basis import WeightSpace


@dataclass(frozen=True)
class TrainRequest:
    """What ``w2w-reg train`` was asked.

    photos: a folder of photos (one identity), a folder of such folders (one each), or photos (one identity).
    out: where LoRA folders are written; space: where the identities are registered. At least one of them.
    rank, alpha: of a layout of its own, when there is no space to take it from. batch: identities side by side;
    at_once: so many of them in the model together, None: all; checkpointing: activations are computed again.
    prior: pictures of the class to draw and preserve. init_seed: of a shared initialisation; None starts from the
    space's mean, or from seed 0 without a space. ray: the cluster that trains, batch by batch.
    """

    photos: Sequence[str]
    name: str | None = None
    prefix: str = ""
    out: str | None = None
    space: str | None = None
    register: bool = True
    prompt: str = PROMPT
    steps: int = 400
    samples: int = 4
    lr: float = 2e-3
    rank: int = 1
    alpha: float = 27.0
    batch: int = 16
    at_once: int | None = None
    checkpointing: bool = False
    prior: int = 0
    class_prompt: str = "photo of person"
    seed: int = 0
    init_seed: int | None = None
    kind: str = "person"
    subjects: Sequence[str] = ()
    labels: Labels = field(default_factory=dict)
    purpose: str | None = None
    engine: Engine = field(default_factory=Engine)
    ray: str | None = None


@dataclass(frozen=True, eq=False)
class TrainedOne(Result):
    """What became of somebody: loss and number of photos; the ``folder``, where one was asked for; where they were
    registered, what was recorded (see ``Made``) and what of the LoRA its coordinates do not say (``residual``); and the
    version alone where they had been registered before (``existing``)."""

    identity: str
    loss: float
    photos: int
    folder: str | None = None
    version: int | None = None
    ref: str | None = None
    kind: str | None = None
    space: str | None = None
    operation: str | None = None
    operation_kind: str | None = None
    held: str | None = None
    residual: float | None = None
    existing: bool = False


@dataclass(frozen=True, eq=False)
class Trained(Result):
    """What became of everybody."""

    space: str | None
    out: str | None
    identities: list[TrainedOne]
    warnings: list[str]


def train(
    registry: Registry,
    request: TrainRequest,
    progress: Progress = no_progress,
    watch: Callable[[float], None] = lambda loss: None,
) -> Trained:
    """Train a LoRA for everybody in the photos; ``progress`` counts optimiser steps over all batches, ``watch`` is told
    the mean loss of the last few of them before it.

    Raises:
        BadImage, ConsentDenied, NotFound, DeviceError, UsageError, StorageError, MissingExtra.
    """
    require_diffusion()
    people, kind = who_is_where(request), Kind.parse(request.kind)
    if request.out is None and not request.register:
        raise UsageError(reason="say where the LoRAs go: [[out]] FOLDER, or a space to register them in")
    if request.steps < 1 or request.samples < 1 or request.batch < 1 or request.lr <= 0:
        raise UsageError(reason="training needs at least one step, sample and identity a batch, and a positive rate")
    row, space = (None, None) if not request.register else open_space(registry, request.space)
    spaces = [] if row is None else [row.id]
    permission = Permission(Use.TRAIN, subjects=request.subjects, kind=kind, spaces=spaces, purpose=request.purpose)
    decision = permission.require(registry)
    run = _Run.begun(registry, request, permission, None if row is None or space is None else (row, space))
    batches = _batches(people, request.batch, run.model.image_size, run.facts)
    made: list[TrainedOne] = []
    done = 0

    def tick(step: int, loss: float) -> None:
        watch(loss)
        progress(done * request.steps + step, len(batches) * request.steps)

    solve_one = run.here(tick) if request.ray is None else run.there()
    card = run.model.device.type == "cuda"
    for batch, solved in zip(batches, mapped(solve_one, batches, request.ray, card=card), strict=True):
        made += run.settle(batch, solved)
        done += 1
        if request.ray is not None:  # else told step by step
            progress(done * request.steps, len(batches) * request.steps)
    for batch in batches:
        _state_path(registry, batch).unlink(missing_ok=True)
    warnings = [*said_held(made), *(str(w) for w in decision.warnings)]
    return Trained(None if row is None else row.ref, request.out, made, warnings)


@dataclass(frozen=True, eq=False)
class _Run:
    """What all batches of a command are trained with. ``place``: the space they are registered in, row and basis."""

    registry: Registry
    request: TrainRequest
    permission: Permission
    place: tuple[Space, WeightSpace] | None
    model: DiffusionModel
    layout: Layout
    theta0: NDArray[np.float32]
    config: TrainConfig
    words: Conditioning
    prior: tuple[Any, Any] | None
    facts: Mapping[str, Any]

    @classmethod
    def begun(
        cls,
        registry: Registry,
        request: TrainRequest,
        permission: Permission,
        place: tuple[Space, WeightSpace] | None,
    ) -> _Run:
        from w2w_registry.diffusion.pipeline import fast_bf16
        from w2w_registry.diffusion.train import TrainConfig

        space = None if place is None else place[1]
        model = _model(registry, request.engine, space)
        layout = space.layout if space is not None else own_layout(model, request.rank, request.alpha)
        theta0 = start_of(layout, space, request.init_seed)
        config = TrainConfig(
            steps=request.steps,
            samples=request.samples,
            lr=request.lr,
            schedule="linear",
            betas=(0.9, 0.99),
            antithetic=True,
            average_from=0.8,
            bf16=fast_bf16(model.device),
            seed=request.seed,
        )
        facts = {
            "config": asdict(config),
            "prompt": request.prompt,
            "init": digest_of(theta0.tobytes()),
            "layout": layout.digest,
            "unet": model.unet_digest,
            "prior": [request.prior, request.class_prompt] if request.prior else None,
        }
        words = model.encode_text(request.prompt)
        prior = prior_pictures(model, layout, request.prior, request.class_prompt, request.seed)
        return cls(registry, request, permission, place, model, layout, theta0, config, words, prior, facts)

    def here(self, tick: Callable[[int, float], None]) -> Callable[[Batch], Solved]:
        """Trains a batch with the base model that is open."""
        return lambda batch: self._training().solved(self.model, self.words, self.prior, batch, tick)

    def there(self) -> Callable[[Batch], Solved]:
        """Trains a batch wherever the base model can be opened."""
        return self._training()

    def _training(self) -> Training:
        request, states = self.request, self.registry.settings.training_dir
        return Training(
            BaseModel.of(self.model),
            self.layout,
            self.theta0,
            self.config,
            request.prompt,
            (request.prior, request.class_prompt, request.seed),
            request.at_once,
            request.checkpointing,
            states,
        )

    def settle(self, batch: Batch, solved: Solved) -> list[TrainedOne]:
        """Write one batch out and register it, as was asked; returns what became of each identity."""
        request, theta = self.request, solved.theta
        entries = [
            TrainedOne(name, float(loss), len(photos))
            for name, loss, photos in zip(batch.names, solved.loss, batch.photos, strict=True)
        ]
        if request.out is not None:
            base = str(request.engine.pipeline) if self.place is None else self.place[1].base_model
            names, pipeline = ", ".join(batch.names), request.engine.pipeline
            hold_models(self.registry, self.layout, list(theta), base_model=base, path=names, pipeline=pipeline)
            entries = _write_loras(Path(request.out), entries, theta, self.layout, base)
        if self.place is not None:
            activities = [
                replace(self._activity(batch, place, solved.started, self.place[0]), energy=solved.energy)
                for place in range(len(batch.names))
            ]
            entries = _register(self.registry, *self.place, entries, theta, activities, self.permission, request)
        return entries

    def _activity(self, batch: Batch, place: int, started: datetime, row: Space) -> Activity:
        """How the identity at a place of the batch was made: with what of the batch decides its LoRA to the last bit,
        which is its size, one's place, and of how many photos the deck was that is dealt to everybody."""
        params = {
            **self.facts,
            "identities_in_batch": len(batch.names),
            "photos_dealt": max(map(len, batch.photos)),
            "init_seed": self.request.init_seed,
            "place_in_batch": place,
        }
        photos = (Input("photo", InputKind.PHOTO, digest=digest, ref=ref) for digest, ref in batch.photos[place])
        return Activity(
            OperationKind.TRAIN,
            started,
            params,
            (*photos, space_input(row)),
            self.request.seed,
            {**self.model.versions(), **self.model.parts},
        )


def who_is_where(request: TrainRequest) -> dict[str, list[Path]]:
    """Identity name → photos.

    Raises:
        BadImage: nothing there. UsageError: it is not clear who is who. BadName.
    """
    from w2w_registry.diffusion.images import find_photos

    paths = [Path(p) for p in request.photos]
    folders = [p for p in paths if p.is_dir()]
    if folders and len(folders) < len(paths):
        raise UsageError(reason="give either folders or photos, not both")
    if not folders:
        if request.name is None:
            raise UsageError(reason="photos of one identity need [[name]]")
        return {check_name(request.name): [f for p in paths for f in find_photos(p)]}
    people: dict[str, list[Path]] = {}
    for folder in folders:
        inner = sorted(p for p in folder.iterdir() if p.is_dir())
        for one in inner or [folder]:
            name = check_name(request.prefix + one.resolve().name)
            if name in people:
                raise UsageError(reason=f"two folders are called {name}", hint="rename one, or use [[prefix]]")
            people[name] = find_photos(one)
    if request.name is not None:
        if len(people) != 1:
            raise UsageError(reason=f"[[name]] is for one identity, {len(people)} folders were given")
        return {check_name(request.name): next(iter(people.values()))}
    return people


def _model(registry: Registry, engine: Engine, space: WeightSpace | None) -> DiffusionModel:
    if space is not None:
        return engine.open(registry, space)
    if engine.pipeline is None:
        raise UsageError(reason="without a space, say which base model to train on: [[pipeline]] FOLDER or Hub id")
    from w2w_registry.diffusion.pipeline import load_model

    return load_model(engine.pipeline, device=engine.device, dtype=engine.dtype)


def _batches(people: Mapping[str, list[Path]], size: int, side: int, facts: Mapping[str, Any]) -> list[Batch]:
    from w2w_registry.diffusion.images import load_photo

    names = list(people)
    out = []
    for start in range(0, len(names), size):
        part = names[start : start + size]
        loaded = [[load_photo(p, side) for p in people[name]] for name in part]
        photos = tuple(
            tuple((photo.sha256, path.name) for photo, path in zip(each, people[name], strict=True))
            for name, each in zip(part, loaded, strict=True)
        )
        digests = [[d for d, _ in each] for each in photos]
        pixels = tuple(np.stack([photo.pixels for photo in each]) for each in loaded)
        out.append(Batch(tuple(part), pixels, photos, digest_of([digests, dict(facts)])))
    return out


def _state_path(registry: Registry, batch: Batch) -> Path:
    return registry.settings.training_dir / f"{batch.digest}.safetensors"


def _write_loras(
    out: Path, trained: Sequence[TrainedOne], theta: NDArray[np.float32], layout: Layout, base: str
) -> list[TrainedOne]:
    for one, row in zip(trained, theta, strict=True):
        files = lora_files(out / one.identity, layout.unflatten(row), layout.alpha, base_model=base)
        with storing(out):
            for path in reversed(list(files)):
                write_atomic(path, files[path])
    return [replace(one, folder=str(out / one.identity)) for one in trained]


def _register(
    registry: Registry,
    row: Space,
    space: WeightSpace,
    trained: Sequence[TrainedOne],
    theta: NDArray[np.float32],
    activities: Sequence[Activity],
    permission: Permission,
    request: TrainRequest,
) -> list[TrainedOne]:
    """Record everybody of a batch in one transaction; who is there already (a resumed command) stays as they are."""
    kind = Kind.parse(request.kind)
    written = space.in_gauge(theta)
    coordinates = space.project(written)
    digests = [model_digest(t, space.layout) for t in theta]
    with registry.catalog.read() as session:
        known = versions_by_model(session, digests)
        refs = refs_of(session, [v for versions in known.values() for v in versions])
    fresh = [i for i, digest in enumerate(digests) if digest not in known]
    drafts = [
        Draft(trained[i].identity, kind, coordinates[i], activities[i], request.subjects, request.labels, theta[i])
        for i in fresh
    ]
    made = iter(record(registry, row, space, drafts, permission, request.engine.pipeline) if drafts else [])
    told: list[TrainedOne] = []
    for i, one in enumerate(trained):
        if i in fresh:
            residual = float(space.residual(written[i], coordinates[i]))
            told.append(replace(one, **next(made), residual=residual))
        else:
            ref = refs[known[digests[i]][0]]
            told.append(replace(one, version=ref.number, ref=str(ref), existing=True))
    return told
