"""Photos become LoRAs: DreamBooth for one or many identities in one batch, registered, written out, or both.

A killed run goes on where it was: the state of every batch is kept in the registry's folder until the whole command is
done, under a digest of everything that affects the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog.lookup import refs_of, versions_by_model
from w2w_registry.catalog.models import InputKind
from w2w_registry.consent.records import Use
from w2w_registry.errors import StorageError, UsageError
from w2w_registry.lora import lora_files, model_digest
from w2w_registry.records import Kind, OperationKind, check_name, digest_of, now
from w2w_registry.services.consent.results import hold_models
from w2w_registry.services.recording.labels import Labels
from w2w_registry.services.recording.sources import space_input
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.engine import PROMPT, Engine, require_diffusion
from w2w_registry.services.synthesis.new_versions import Draft, Permission, record
from w2w_registry.space.layout import Layout, layout_of

if TYPE_CHECKING:
    from w2w_registry.catalog.models import Space
    from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel
    from w2w_registry.diffusion.train import TrainConfig, TrainState
    from w2w_registry.space.basis import WeightSpace

_RECENT = 20  # steps whose loss is told while training
SAVE_EVERY: Final = 25
TARGETS: Final = ("to_q", "to_v")


@dataclass(frozen=True)
class TrainRequest:
    """What ``w2w-reg train`` was asked.

    photos: a folder of photos (one identity), a folder of such folders (one each), or photos (one identity).
    out: where LoRA folders are written; space: where the identities are registered. At least one of them.
    rank, alpha: of a layout of its own, when there is no space to take it from. batch: identities side by side;
    at_once: so many of them in the model together, None: all; checkpointing: activations are computed again.
    prior: pictures of the class to draw and preserve. init_seed: of a shared initialisation; None starts from the
    space's mean, or from seed 0 without a space.
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


@dataclass(frozen=True, eq=False)
class Batch:
    """Identities trained side by side: their names and photos, and the digest of all that affects their LoRAs."""

    names: tuple[str, ...]
    pixels: tuple[NDArray[np.uint8], ...]
    photos: tuple[tuple[tuple[str, str], ...], ...]
    digest: str


def train(
    registry: Registry,
    request: TrainRequest,
    progress: Progress = no_progress,
    watch: Callable[[float], None] = lambda loss: None,
) -> dict[str, Any]:
    """Train a LoRA for everybody in the photos; ``progress`` counts optimiser steps over all batches, ``watch`` is told
    the mean loss of the last few of them before it.

    Raises:
        BadImage, ConsentDenied, NotFound, DeviceError, UsageError, StorageError, MissingExtra.
    """
    require_diffusion()
    from w2w_registry.diffusion.pipeline import fast_bf16
    from w2w_registry.diffusion.train import TrainConfig

    people, kind = who_is_where(request), Kind.parse(request.kind)
    if request.out is None and not request.register:
        raise UsageError(reason="say where the LoRAs go: [[out]] FOLDER, or a space to register them in")
    if request.steps < 1 or request.samples < 1 or request.batch < 1 or request.lr <= 0:
        raise UsageError(reason="training needs at least one step, sample and identity a batch, and a positive rate")
    row, space = (None, None) if not request.register else open_space(registry, request.space)
    spaces = [] if row is None else [row.id]
    permission = Permission(Use.TRAIN, subjects=request.subjects, kind=kind, spaces=spaces, purpose=request.purpose)
    decision = permission.require(registry)
    model = _model(request.engine, space)
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
    batches = _batches(people, request.batch, model.image_size, facts)
    words = model.encode_text(request.prompt)
    prior = prior_pictures(model, layout, request.prior, request.class_prompt, request.seed)
    made: list[dict[str, Any]] = []
    for number, batch in enumerate(batches):

        def tick(step: int, loss: float, number: int = number) -> None:
            watch(loss)
            progress(number * config.steps + step, len(batches) * config.steps)

        started = now()
        state = _state_path(registry, batch)
        theta, loss = solve(
            model,
            layout,
            theta0,
            batch.pixels,
            words,
            config,
            prior=prior,
            state=state,
            at_once=request.at_once,
            checkpointing=request.checkpointing,
            tick=tick,
        )
        entries: list[dict[str, Any]] = [{"identity": name} for name in batch.names]
        if request.out is not None:
            base = _base(space, request)
            hold_models(
                registry,
                layout,
                list(theta),
                base_model=base,
                path=", ".join(batch.names),
                pipeline=request.engine.pipeline,
            )
            _write_loras(Path(request.out), batch.names, theta, layout, base, entries)
        if row is not None and space is not None:
            # What of a batch decides one identity's LoRA to the last bit: its size, one's place, and of how many photos
            # the deck was that is dealt to everybody.
            shared = {"identities_in_batch": len(batch.names), "photos_dealt": max(map(len, batch.photos))}
            params = {**facts, **shared, "init_seed": request.init_seed}
            activities = [
                Activity(
                    OperationKind.TRAIN,
                    started,
                    {**params, "place_in_batch": place},
                    (*(Input("photo", InputKind.PHOTO, digest=d, ref=r) for d, r in photos), space_input(row)),
                    request.seed,
                    {**model.versions(), **model.parts},
                )
                for place, photos in enumerate(batch.photos)
            ]
            _register(registry, row, space, kind, batch, theta, activities, permission, request, entries)
        for entry, value, photos in zip(entries, loss, batch.photos, strict=True):
            entry |= {"loss": float(value), "photos": len(photos)}
        made += entries
    for batch in batches:
        _state_path(registry, batch).unlink(missing_ok=True)
    return {
        "space": None if row is None else row.ref,
        "out": request.out,
        "identities": made,
        "warnings": [str(w) for w in decision.warnings],
    }


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


def own_layout(model: DiffusionModel, rank: int, alpha: float) -> Layout:
    """``to_q`` and ``to_v`` of every attention, as in the paper's release.

    Raises:
        UsageError: a rank or alpha that makes no sense.
    """
    if rank < 1 or not alpha > 0:
        raise UsageError(reason="rank must be 1 or more and alpha positive")
    shapes: dict[Any, tuple[int, ...]] = {}
    for name, module in model.unet.named_modules():
        if name.rpartition(".")[2] in TARGETS and hasattr(module, "in_features"):
            shapes[name, "A"] = (rank, int(module.in_features))
            shapes[name, "B"] = (int(module.out_features), rank)
    return layout_of(shapes, alpha)


def _model(engine: Engine, space: WeightSpace | None) -> DiffusionModel:
    if space is not None:
        return engine.open(space)
    if engine.pipeline is None:
        raise UsageError(reason="without a space, say which base model to train on: [[pipeline]] FOLDER or Hub id")
    from w2w_registry.diffusion.pipeline import load_model

    return load_model(engine.pipeline, device=engine.device, dtype=engine.dtype)


def _base(space: WeightSpace | None, request: TrainRequest) -> str:
    return space.base_model if space is not None else str(request.engine.pipeline)


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


def start_of(layout: Layout, space: WeightSpace | None, init_seed: int | None) -> NDArray[np.float32]:
    """θ₀ (D,): a shared initialisation by its seed; without one the space's mean, or without a space seed 0."""
    from w2w_registry.diffusion.train import initial_theta

    if space is not None and init_seed is None:
        return np.array(space.mean)
    return np.asarray(initial_theta(layout, init_seed or 0).numpy(), np.float32)


def prior_pictures(model: DiffusionModel, layout: Layout, count: int, prompt: str, seed: int) -> tuple[Any, Any] | None:
    """Latents of ``count`` pictures of the class as the base model draws it, and the class prompt's embedding."""
    if count < 1:
        return None
    from w2w_registry.diffusion.generate import Recipe, Shot, draw

    shots = [Shot(None, seed * 100_003 + i) for i in range(count)]
    pictures = draw(model, layout, shots, Recipe(prompt))
    return model.encode_images(np.stack(pictures)), model.encode_text(prompt).text


def solve(
    model: DiffusionModel,
    layout: Layout,
    theta0: NDArray[np.float32],
    photos: Sequence[NDArray[np.uint8]],
    words: Conditioning,
    config: TrainConfig,
    *,
    prior: tuple[Any, Any] | None = None,
    state: Path | None = None,
    at_once: int | None = None,
    checkpointing: bool = False,
    tick: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Train the identities with these photos, (P, H, W, 3) each, side by side.

    ``state``: where the run is kept every few steps, and taken up again when it is there. ``at_once``,
    ``checkpointing``: what saves memory (``diffusion.train.train``).

    Returns:
        θ (G, D) and the mean loss of the last tenth of the steps (G,).

    Raises:
        DeviceError, StorageError.
    """
    from w2w_registry.diffusion import state as saved
    from w2w_registry.diffusion import train as engine
    from w2w_registry.diffusion.pipeline import memory_guard

    most = max(len(p) for p in photos)
    # Everybody gets as many photos as the richest: one's own photos come round again.
    everyone = [np.resize(p, (most, *p.shape[1:])) for p in photos]
    latents = model.encode_images(np.concatenate(everyone))
    latents = latents.reshape(len(everyone), most, *latents.shape[1:])

    def after(now_at: TrainState) -> None:
        if state is not None and (now_at.step % SAVE_EVERY == 0 or now_at.step == config.steps):
            try:
                write_atomic(state, saved.to_bytes(now_at))
            except OSError as error:
                raise StorageError(path=str(state), reason=error.strerror or str(error)) from error
        recent = now_at.losses[-_RECENT:]
        tick(now_at.step, sum(float(loss.mean()) for loss in recent) / max(1, len(recent)))

    less = "lower [[at-once]] or [[samples]], or say [[checkpointing]]"
    with memory_guard(model.device, less), model.conditioned(words):
        trained = engine.train(
            model.unet,
            model.scheduler,
            layout,
            saved.as_tensor(theta0, model.device),
            latents,
            words.text,
            config,
            prior_latents=None if prior is None else prior[0],
            prior_text=None if prior is None else prior[1],
            state=None if state is None else saved.load(state, model.device),
            callback=after,
            at_once=at_once,
            checkpointing=checkpointing,
        )
    theta = np.asarray(trained.theta.cpu().numpy(), np.float32)
    tail = max(1, config.steps // 10)
    return theta, np.asarray(trained.losses[-tail:].mean(0).numpy(), np.float32)


def _state_path(registry: Registry, batch: Batch) -> Path:
    return registry.settings.training_dir / f"{batch.digest}.safetensors"


def _write_loras(
    out: Path,
    names: Sequence[str],
    theta: NDArray[np.float32],
    layout: Layout,
    base: str,
    entries: Sequence[dict[str, Any]],
) -> None:
    for name, row, entry in zip(names, theta, entries, strict=True):
        files = lora_files(out / name, layout.unflatten(row), layout.alpha, base_model=base)
        try:
            for path in reversed(list(files)):
                write_atomic(path, files[path])
        except OSError as error:
            raise StorageError(path=str(out), reason=error.strerror or str(error)) from error
        entry["folder"] = str(out / name)


def _register(
    registry: Registry,
    row: Space,
    space: WeightSpace,
    kind: Kind,
    batch: Batch,
    theta: NDArray[np.float32],
    activities: Sequence[Activity],
    permission: Permission,
    request: TrainRequest,
    entries: Sequence[dict[str, Any]],
) -> None:
    """Record everybody of a batch in one transaction; who is there already (a resumed command) stays as they are."""
    written = space.in_gauge(theta)
    coordinates = space.project(written)
    digests = [model_digest(t, space.layout) for t in theta]
    with registry.catalog.read() as session:
        known = versions_by_model(session, digests)
        refs = refs_of(session, [v for versions in known.values() for v in versions])
    fresh = [i for i, digest in enumerate(digests) if digest not in known]
    drafts = [
        Draft(batch.names[i], kind, coordinates[i], activities[i], request.subjects, request.labels, theta[i])
        for i in fresh
    ]
    made = iter(record(registry, row, space, drafts, permission, request.engine.pipeline) if drafts else [])
    for i, entry in enumerate(entries):
        if i in fresh:
            entry |= next(made) | {"residual": float(space.residual(written[i], coordinates[i]))}
        else:
            ref = refs[known[digests[i]][0]]
            entry |= {"ref": str(ref), "version": ref.number, "existing": True}
