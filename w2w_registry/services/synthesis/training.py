"""Training itself, whoever asks for it: the layout, where it starts, the class to preserve, and the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from w2w_registry.artifacts import write_atomic
from w2w_registry.errors import UsageError
from w2w_registry.records import now
from w2w_registry.services.recording import energy
from w2w_registry.services.recording.workers import BaseModel
from w2w_registry.space.layout import Layout, layout_of

if TYPE_CHECKING:
    from w2w_registry.diffusion.families import Conditioning
    from w2w_registry.diffusion.pipeline import DiffusionModel
    from w2w_registry.diffusion.train import TrainConfig, TrainState
    from w2w_registry.space.basis import WeightSpace

_RECENT = 20  # steps whose loss is told while training
SAVE_EVERY: Final = 25  # steps
SAVE_AFTER: Final = 20.0  # seconds, where steps take long
TARGETS: Final = ("to_q", "to_v")


@dataclass(frozen=True, eq=False)
class Batch:
    """Identities trained side by side: their names and photos, and the digest of all that affects their LoRAs."""

    names: tuple[str, ...]
    pixels: tuple[NDArray[np.uint8], ...]
    photos: tuple[tuple[tuple[str, str], ...], ...]
    digest: str


@dataclass(frozen=True, eq=False)
class Solved:
    """A batch trained: θ (G, D), the mean loss of the last tenth of the steps (G,), when it began and the energy that
    was measured for each."""

    theta: NDArray[np.float32]
    loss: NDArray[np.float32]
    started: datetime
    energy: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class Training:
    """How batches of one command are trained, for whoever opens ``base``: what it holds can be sent to another machine.

    ``prior``: pictures of the class to preserve, its prompt and the seed they are drawn with. ``states``: the folder
    that a run is kept in; an interrupted one goes on there, on another machine if that sees the same folder.
    """

    base: BaseModel
    layout: Layout
    theta0: NDArray[np.float32]
    config: TrainConfig
    prompt: str
    prior: tuple[int, str, int]
    at_once: int | None
    checkpointing: bool
    states: Path

    def __call__(self, batch: Batch) -> Solved:
        model = self.base.open()
        model.bank(self.layout)
        words, prior = _asked(self.base, self.layout, self.prompt, self.prior)
        return self.solved(model, words, prior, batch)

    def solved(
        self,
        model: DiffusionModel,
        words: Conditioning,
        prior: tuple[Any, Any] | None,
        batch: Batch,
        tick: Callable[[int, float], None] = lambda step, loss: None,
    ) -> Solved:
        """Train a batch with an open model."""
        started, electricity = now(), energy.meter()
        theta, loss = solve(
            model,
            self.layout,
            self.theta0,
            batch.pixels,
            words,
            self.config,
            prior=prior,
            state=self.states / f"{batch.digest}.safetensors",
            at_once=self.at_once,
            checkpointing=self.checkpointing,
            tick=tick,
        )
        return Solved(theta, loss, started, electricity.lap(len(batch.names)))


@lru_cache(maxsize=1)
def _asked(base: BaseModel, layout: Layout, prompt: str, prior: tuple[int, str, int]) -> tuple[Conditioning, Any]:
    """Prompt and pictures of the class, once in a process."""
    model = base.open()
    return model.encode_text(prompt), prior_pictures(model, layout, *prior)


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

    latents = _latents(model, photos)

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
            callback=_kept(state, config.steps, tick),
            at_once=at_once,
            checkpointing=checkpointing,
        )
    theta = np.asarray(trained.theta.cpu().numpy(), np.float32)
    tail = max(1, config.steps // 10)
    return theta, np.asarray(trained.losses[-tail:].mean(0).numpy(), np.float32)


def _kept(state: Path | None, steps: int, tick: Callable[[int, float], None]) -> Callable[[TrainState], None]:
    """What is done after a step: the run is kept at ``state`` every now and then, and the loss told."""
    from w2w_registry.diffusion import state as saved

    last = monotonic()

    def after(now_at: TrainState) -> None:
        nonlocal last
        due = now_at.step % SAVE_EVERY == 0 or now_at.step == steps or monotonic() - last > SAVE_AFTER
        if state is not None and due:
            write_atomic(state, saved.to_bytes(now_at))
            last = monotonic()
        recent = now_at.losses[-_RECENT:]
        tick(now_at.step, sum(float(loss.mean()) for loss in recent) / max(1, len(recent)))

    return after


def _latents(model: DiffusionModel, photos: Sequence[NDArray[np.uint8]]) -> Any:
    """(G, P, C, h, w): everybody gets as many photos as the richest, as one's own photos come round again."""
    most = max(len(p) for p in photos)
    everyone = [np.resize(p, (most, *p.shape[1:])) for p in photos]
    latents = model.encode_images(np.concatenate(everyone))
    return latents.reshape(len(everyone), most, *latents.shape[1:])
