"""A foreign adapter into coordinates of a space: the point that makes the base model predict what the adapter does.

Weights of another rank, start, tool or part of the model say nothing in a space's terms; behaviour does. The walk
starts where a ridge regression from fingerprints to coordinates, learned from the registered, puts the adapter
(DESIGN §3), and is refined by inversion with the adapter as teacher: not what made a photo is to be predicted at every
noise level, but what the adapter predicts there, on pictures that the adapter itself draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2w_registry.diffusion.adapters import Adapter, alike, applied
from w2w_registry.diffusion.families import Conditioning
from w2w_registry.diffusion.invert import InitialPoint, InvertConfig, SpaceBasis, Teacher, invert, noise_for
from w2w_registry.diffusion.pipeline import DiffusionModel
from w2w_registry.diffusion.train import denoising_target
from w2w_registry.errors import UsageError

Float32 = NDArray[np.float32]

DIRECTIONS: Final = 300
RIDGE: Final = 1e-2
"""Principal directions of the fingerprints, and the penalty as a share of their mean eigenvalue."""
LEAST: Final = 20


@dataclass(frozen=True)
class TranslateConfig:
    """How to refine. ``pictures``: drawn by the adapter, in ``drawing`` steps, to be noised; ``walk``: the inversion's
    own settings, whose loss counts as a share of what the adapter changes. Its emphasis makes up for what a space of
    one rank and few layers says too faintly (chosen by identity score, on people who judge nothing)."""

    pictures: int = 4
    drawing: int = 12
    walk: InvertConfig = field(
        default_factory=lambda: InvertConfig(steps=60, lr=0.1, prior=0.005, emphasis=1.2, held_out=16)
    )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "directions": DIRECTIONS, "ridge": RIDGE}


@dataclass(frozen=True, eq=False)
class Ridge:
    """From fingerprints (n, D) to coordinates in units of their spread (n, k); ``variance`` (k,) of what is left open,
    on registered left out."""

    centre: NDArray[np.float64]
    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    variance: NDArray[np.float64]

    def __call__(self, fingerprints: Float32) -> InitialPoint:
        white = (fingerprints.astype(np.float64) - self.centre) @ self.weights + self.offset
        return InitialPoint(
            torch.from_numpy(white.astype(np.float32)), torch.from_numpy(self.variance.astype(np.float32))
        )


def too_few(registered: int) -> UsageError:
    """What to say where there are too few registered to learn a translation from."""
    return UsageError(
        reason=f"a translation is learned from at least {LEAST} registered versions; there are {registered}"
    )


def fit_ridge(fingerprints: Float32, white: Float32) -> Ridge:
    """Ridge regression on the leading principal directions of ``fingerprints`` (n, D) towards ``white`` (n, k).

    Raises:
        UsageError: fewer than ``LEAST`` of them.
    """
    if len(fingerprints) < LEAST:
        raise too_few(len(fingerprints))
    x, y = fingerprints.astype(np.float64), white.astype(np.float64)
    centre, offset = x.mean(0), y.mean(0)
    u, s, vt = np.linalg.svd(x - centre, full_matrices=False)
    keep = min(DIRECTIONS, int((s > 1e-9 * s[0]).sum()), len(x) - 1)
    u, s, vt = u[:, :keep], s[:keep], vt[:keep]
    shrink = s**2 + RIDGE * float((s**2).mean())
    weights = (vt.T * (s / shrink)) @ (u.T @ (y - offset))
    # What each would have been off by, had the others alone been learned from (Cook & Weisberg 1982, §2.2).
    leverage = ((u**2) * (s**2 / shrink)).sum(1) + 1.0 / len(x)
    off = (y - offset - (x - centre) @ weights) / np.maximum(1.0 - leverage, 1e-3)[:, None]
    return Ridge(centre, weights, offset, (off**2).mean(0))


@dataclass(frozen=True, eq=False)
class Translated:
    """One adapter's answer: ``coordinates`` (k,), and the ``residual``: ‖what the adapter predicts − what the point
    predicts‖ / ‖what the adapter changes‖, on noise that was not learned from; ``started`` is the same of the start."""

    coordinates: Float32
    residual: float
    started: float
    steps: int


def translate(
    model: DiffusionModel,
    basis: SpaceBasis,
    adapters: Sequence[Adapter],
    words: Conditioning,
    prompt: str,
    start: InitialPoint,
    config: TranslateConfig | None = None,
    *,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[Translated]:
    """Coordinates of every adapter, side by side.

    Args:
        words: the prompt's embedding by the base model's own text encoder, which is what the space's LoRAs are told.
        prompt: asked of the adapters, whose text encoder may be their own.

    Raises:
        BadLora: an adapter does not fit the base model. DeviceError, SpaceMismatch: as ``invert``.
    """
    config = config or TranslateConfig()
    taught = _Taught(model, adapters, prompt, words)
    latents = taught.drawn(config)
    teacher = Teacher(taught.predict, taught.changed(latents, config.walk), taught.blank.text)
    found = invert(model, basis, latents, words, config.walk, initial=start, teacher=teacher, progress=progress)
    return [Translated(one.coordinates, one.loss**0.5, one.start_loss**0.5, one.steps) for one in found]


class _Taught:
    """What the adapters predict, each for its own run of a batch."""

    def __init__(self, model: DiffusionModel, adapters: Sequence[Adapter], prompt: str, words: Conditioning) -> None:
        self.model, self.adapters, self.prompt, self.words = model, adapters, prompt, words
        self.forms, self.blank = list(alike(model, adapters, len(adapters))), model.encode_text("")

    def predict(self, noisy: Tensor, t: Tensor) -> Tensor:
        """(G·S, C, h, w) float32; every second sample is asked with the empty prompt."""
        out = torch.empty_like(noisy, dtype=torch.float32)
        out[0::2] = self.answer(noisy[0::2], t[0::2])
        out[1::2] = self.answer(noisy[1::2], t[1::2], blank=True)
        return out

    @torch.no_grad()
    def answer(self, noisy: Tensor, t: Tensor, *, blank: bool = False) -> Tensor:
        """(G·S, C, h, w) float32, to the prompt or the empty one."""
        count, kind = len(self.adapters), self.model.dtype
        prompt, own = ("", self.blank) if blank else (self.prompt, self.words)
        each = len(noisy) // count
        shape = noisy.shape[1:]
        x, times = noisy.reshape(count, each, *shape), t.reshape(count, each)
        out = torch.empty_like(x, dtype=torch.float32)
        for numbers in self.forms:
            adapters = [self.adapters[n] for n in numbers]
            with applied(self.model, adapters, prompt, own) as (words, texts):
                said = texts.to(kind).repeat_interleave(each, 0)
                with self.model.conditioned(words):
                    rows = x[numbers].reshape(-1, *shape).to(kind)
                    answer = self.model.unet(rows, times[numbers].reshape(-1), said).sample
            out[numbers] = answer.float().reshape(len(numbers), each, *shape)
        return out.reshape(-1, *shape)

    def changed(self, latents: Tensor, walk: InvertConfig) -> Tensor:
        """Mean square of what each adapter changes in the base model's predictions (G,), at the noise that judges."""
        count, shape = latents.shape[0], tuple(latents.shape[2:])
        total = int(self.model.scheduler.config.num_train_timesteps)
        noise, t = noise_for(walk.seed, -1, walk.held_out, shape, total, walk.low, walk.high)
        each = len(t)
        x = latents[:, torch.arange(each) % latents.shape[1]].reshape(-1, *shape)
        times = t.to(x.device).repeat(count)
        noisy, _ = denoising_target(self.model.scheduler, x, noise.to(x.device).repeat(count, 1, 1, 1), times)
        with torch.no_grad(), self.model.conditioned(self.words):
            said = torch.stack([self.words.text, self.blank.text]).to(self.model.dtype).repeat(len(noisy) // 2, 1, 1)
            own = self.model.unet(noisy.to(self.model.dtype), times, said).sample.float()
        moved = (self.predict(noisy, times) - own).square().flatten(1).mean(1).reshape(count, each).mean(1)
        sizes: Tensor = moved.clamp_min(1e-12)
        return sizes

    @torch.no_grad()
    def drawn(self, config: TranslateConfig) -> Tensor:
        """Latents (G, P, C, h, w) that the adapters draw from one noise (DDIM, Song et al. 2021, without guidance)."""
        count, shape, device = len(self.adapters), self.model.latent_shape, self.model.device
        generator = torch.Generator().manual_seed(config.walk.seed * 1_000_003 + 11)
        x = torch.randn((config.pictures, *shape), generator=generator).to(device).repeat(count, 1, 1, 1)
        scheduler = self.model.scheduler
        alphas, kind = scheduler.alphas_cumprod.to(device, torch.float32), scheduler.config.prediction_type
        steps = np.linspace(len(alphas) - 1, 0, config.drawing + 1).round().astype(int)
        for now, then in pairwise([*steps[:-1].tolist(), -1]):
            a, s = alphas[now].sqrt(), (1 - alphas[now]).sqrt()
            out = self.answer(x, torch.full((len(x),), now, device=device))
            if kind == "v_prediction":
                picture, noise = a * x - s * out, a * out + s * x
            elif kind == "epsilon":
                picture, noise = (x - s * out) / a.clamp_min(1e-4), out
            else:
                picture, noise = out, (x - a * out) / s.clamp_min(1e-4)
            x = picture if then < 0 else alphas[then].sqrt() * picture + (1 - alphas[then]).sqrt() * noise
        return x.reshape(count, config.pictures, *shape)
