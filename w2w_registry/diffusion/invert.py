"""Photos into coordinates: the identity whose LoRA explains a photo best (the paper, §3.4).

The unknown is ``w`` (k,), the coordinates in units of their own spread, so that the space's identities are ``N(0, I)``.
With ``θ = μ + σ·V(s·w)`` the objective per photo is

    E_{t,ε} [ Σ mask·(model(x_t, t; θ) − target)² / Σ mask ]  +  strength · (w − w₀)ᵀ Λ (w − w₀) / k

a masked denoising loss and a Gaussian prior.  Where the paper walks from the mean for 400 steps of one noisy copy each:

- every step sees a stratified batch of timesteps in antithetic pairs of noise, so steps can be large and few;
- θ is assembled once per step and the gradient returns through Vᵀ once, not once per module;
- the walk starts at a point ``w₀`` read off the photo (``initializer.py``), and the prior is what that leaves open:
  Λ is the inverse of its error variance per component (1 everywhere for the mean);
- it ends when a held-out set of noise, never trained on, no longer improves, and returns the best point by that set.

Several photos are inverted side by side in one batch without touching each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2w_registry.diffusion.families import Conditioning
from w2w_registry.diffusion.pipeline import DiffusionModel, memory_guard
from w2w_registry.diffusion.train import denoising_target
from w2w_registry.errors import UsageError
from w2w_registry.space.layout import Layout

Progress = Callable[[int, int, float], None]
"""Called with (step, steps, held-out loss)."""


@dataclass(frozen=True, eq=False)
class SpaceBasis:
    """The arrays of a weight space on a device: θ = mean + std · (components @ (component_std · w)).

    mean, std: (D,). components: (D, k). component_std: (k,). ``components`` may be half precision to save memory.
    """

    layout: Layout
    mean: Tensor
    std: Tensor
    components: Tensor
    component_std: Tensor

    @classmethod
    def of(
        cls,
        layout: Layout,
        mean: NDArray[Any],
        std: NDArray[Any],
        components: NDArray[Any],
        component_std: NDArray[Any],
        *,
        device: torch.device,
        count: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> SpaceBasis:
        """Move the first ``count`` components of a space to a device."""
        k = components.shape[1] if count is None else count
        if not 1 <= k <= components.shape[1]:
            raise UsageError(reason=f"the space has {components.shape[1]} components, not {k}")
        part = np.array(components[:, :k], order="C")  # a copy: what comes from a memory map cannot be written to
        return cls(
            layout,
            torch.tensor(mean, dtype=torch.float32, device=device),
            torch.tensor(std, dtype=torch.float32, device=device),
            torch.from_numpy(part).to(device, dtype),
            torch.tensor(component_std[:k], dtype=torch.float32, device=device),
        )

    @property
    def k(self) -> int:
        return int(self.components.shape[1])

    def theta(self, white: Tensor) -> Tensor:
        """(G, k) whitened coordinates → θ (G, D) float32, differentiable."""
        moved = (white * self.component_std).to(self.components.dtype) @ self.components.T
        return self.mean + self.std * moved.float()

    def coordinates(self, white: Tensor) -> NDArray[np.float32]:
        """(G, k) whitened → coordinates (G, k)."""
        return np.asarray((white * self.component_std).detach().cpu().numpy(), np.float32)


SETTLED: Final = 0.2
"""Share of a walk's improvement that its last judgement may still find, for the walk to count as converged."""


@dataclass(frozen=True)
class InvertConfig:
    """How to invert.

    steps: at most. samples: noisy copies per photo and step, in antithetic pairs. lr: Adam's, in units of a component's
    spread, held for the first ``hold`` of the steps and then falling to zero in a straight line (steps are few, and
    slow ones are mostly lost). prior: weight of the Gaussian prior against the loss.
    emphasis: factor from the space's centre at the end: a walk that a prior holds and that ends early gives a milder
    identity than training does. Whom it is near does not change with it; 1 leaves the answer as it was found.
    low, high: range of timesteps as shares of the schedule; what little noise hides is texture, not who it is.
    held_out: noisy copies that judge, every ``every`` steps; patience: how many judgements without progress end it.
    bf16: arithmetic in bfloat16. seed: of all noise.
    """

    steps: int = 20
    samples: int = 8
    lr: float = 0.15
    hold: float = 0.85
    prior: float = 0.2
    emphasis: float = 1.4
    low: float = 0.3
    high: float = 1.0
    held_out: int = 8
    every: int = 10
    patience: int = 2
    bf16: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raises UsageError when the numbers make no sense."""
        if (
            self.steps < 0
            or self.samples < 1
            or self.held_out < 1
            or self.every < 1
            or not all(math.isfinite(v) and v > 0 for v in (self.lr, self.emphasis))
            or not (math.isfinite(self.prior) and self.prior >= 0)
        ):
            raise UsageError(
                reason="inversion needs steps and prior >= 0, samples and held-out >= 1, a positive rate and emphasis"
            )
        if not 0.0 <= self.low < self.high <= 1.0:
            raise UsageError(reason="the timestep range must lie within 0 and 1")
        if not 0.0 <= self.hold <= 1.0:
            raise UsageError(reason="the share of the steps that hold the rate must lie within 0 and 1")

    def rate(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        left = 1.0 - step / self.steps
        return self.lr * min(1.0, left / (1.0 - self.hold)) if self.hold < 1.0 else self.lr

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Inverted:
    """One photo's answer.

    Attributes:
        coordinates: (k,) float32, in the space's own units.
        loss, start_loss, mean_loss: held-out denoising loss at the answer, at the start, and of the average identity.
        typicality: root mean square of the whitened coordinates (Mahalanobis distance / √k); an average member has 1.
        steps: steps taken. converged: the last judgement found less than ``SETTLED`` of all that the walk improved.
        history: (step, held-out loss) pairs. seconds: of the whole batch, divided by its photos.
    """

    coordinates: NDArray[np.float32]
    loss: float
    start_loss: float
    mean_loss: float
    typicality: float
    steps: int
    converged: bool
    history: tuple[tuple[int, float], ...]
    seconds: float

    @property
    def explained(self) -> float:
        """Share of the average identity's loss that this one removes; near 0 the photo shows nobody the space knows."""
        return 1.0 - self.loss / self.mean_loss if self.mean_loss > 0 else 0.0

    def warnings(self) -> tuple[str, ...]:
        """What a person should know before trusting the result."""
        found = []
        if self.typicality > 1.6:
            found.append(f"unusual for this space ({self.typicality:.1f} times the typical distance from its centre)")
        if self.explained < 0.005:
            found.append("the photo is explained no better than by the average identity: is it a face, and cropped?")
        if not self.converged:
            found.append("still improving when the steps ran out: allow more steps")
        return tuple(found)


@dataclass(frozen=True)
class InitialPoint:
    """Where to start: whitened coordinates (G, k), and their error variance per component (k,)."""

    white: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Teacher:
    """What is to be predicted, instead of what made the photo: ``predict`` takes noisy latents (G·S, C, h, w), those
    of one answer together, and timesteps (G·S,). ``size`` (G,): the losses are told as shares of it. ``blank`` (L, E),
    the embedding of the empty prompt: every second sample is asked with it, as guidance asks."""

    predict: Callable[[Tensor, Tensor], Tensor]
    size: Tensor
    blank: Tensor


def latent_masks(model: DiffusionModel, masks: NDArray[np.float32]) -> Tensor:
    """Masks of the pictures (G, H, W) as weights of the latents (G, h, w): every latent the mean of what it covers."""
    _, h, w = model.latent_shape
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(masks)), (h, w))


def noise_for(
    seed: int, step: int, count: int, shape: tuple[int, ...], steps: int, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Noise (count, C, h, w) and timesteps (count,) of one step: stratified, in antithetic pairs, by seed alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step + 7) & 0x7FFF_FFFF_FFFF_FFFF)
    pairs = -(-count // 2)
    strata = (torch.arange(pairs) + torch.rand(pairs, generator=generator)) / pairs
    t = ((low + (high - low) * strata) * steps).long().clamp(0, steps - 1)
    noise = torch.randn((pairs, *shape), generator=generator)
    return torch.cat([noise, -noise])[:count], torch.cat([t, t])[:count]


def invert(
    model: DiffusionModel,
    basis: SpaceBasis,
    latents: Tensor,
    conditioning: Conditioning,
    config: InvertConfig,
    *,
    masks: Tensor | None = None,
    initial: InitialPoint | None = None,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
) -> list[Inverted]:
    """Coordinates of each photo.

    Args:
        latents: (G, C, h, w) one photo each, scaled as the UNet wants them, or (G, P, C, h, w) several of each.
        masks: (G, h, w) weights in [0, 1].
        conditioning: of the prompt the space's LoRAs were trained with.
        teacher: what is to be predicted, instead of what made the photos.

    Raises:
        DeviceError: out of memory. SpaceMismatch: the space is of another UNet.
    """
    config.check()
    with memory_guard(model.device, "lower [[samples]], or use [[dtype]] bfloat16 or fewer [[components]]"):
        return _Inversion(model, basis, latents, conditioning, config, masks, initial, teacher).run(progress)


class _Inversion:
    """The state of one batch."""

    def __init__(
        self,
        model: DiffusionModel,
        basis: SpaceBasis,
        latents: Tensor,
        conditioning: Conditioning,
        config: InvertConfig,
        masks: Tensor | None,
        initial: InitialPoint | None,
        teacher: Teacher | None = None,
    ) -> None:
        self.teacher = teacher
        self.model, self.basis, self.config, self.conditioning = model, basis, config, conditioning
        self.bank = model.bank(basis.layout)
        self.latents = (latents if latents.ndim == 5 else latents[:, None]).to(model.device, torch.float32)
        self.count = len(latents)
        self.shape = tuple(self.latents.shape[2:])
        self.total = int(model.scheduler.config.num_train_timesteps)
        weights = torch.ones(self.count, *self.shape[1:]) if masks is None else masks
        weights = weights.to(model.device, torch.float32)[:, None]
        self.weights = weights / weights.mean(dim=(1, 2, 3), keepdim=True)
        if teacher is not None:
            if config.samples % 2:
                raise UsageError(reason="a teacher needs an even number of [[samples]]")
            self.weights = self.weights / teacher.size.to(model.device)[:, None, None, None]
        centre = torch.zeros(self.count, basis.k, device=model.device)
        self.start = centre if initial is None else initial.white.to(model.device, torch.float32)
        variance = torch.ones(basis.k) if initial is None else initial.variance
        # No initial point is so sure that the photo itself has nothing to add.
        self.precision = 1.0 / variance.to(model.device, torch.float32).clamp(0.02, 1.0)
        self.held = noise_for(config.seed, -1, config.held_out, self.shape, self.total, config.low, config.high)

    def losses(self, white: Tensor, noise: Tensor, timesteps: Tensor, first: int = 0) -> Tensor:
        """Masked denoising loss of each answer (G,). Its photos take turns, the one numbered ``first`` at first."""
        each = len(timesteps)
        x = self.latents[:, (first + torch.arange(each)) % self.latents.shape[1]].reshape(-1, *self.shape)
        e = noise.to(x.device)[None].expand(self.count, each, *self.shape).reshape(-1, *self.shape)
        t = timesteps.to(x.device).repeat(self.count)
        noisy, target = denoising_target(self.model.scheduler, x, e, t)
        if self.teacher is not None:
            target = self.teacher.predict(noisy, t)
        text = self.conditioning.text.to(self.model.dtype)
        text = text.expand(len(t), *text.shape)
        if self.teacher is not None:
            text = text.clone()
            text[1::2] = self.teacher.blank.to(text)
        theta = self.basis.theta(white)
        with self.model.autocast(self.config.bf16), self.bank.apply(theta):
            out = self.model.unet(noisy.to(self.model.dtype), t, text).sample
        weights = self.weights[:, None].expand(-1, each, *self.weights.shape[1:]).reshape(-1, *self.weights.shape[1:])
        error: Tensor = (out.float() - target).square() * weights
        return error.flatten(1).mean(1).reshape(self.count, each).mean(1)

    @torch.no_grad()
    def judge(self, white: Tensor) -> Tensor:
        """Held-out loss (G,), in pieces no larger than a training step."""
        noise, timesteps = self.held
        parts = [
            self.losses(white, noise[i : i + self.config.samples], timesteps[i : i + self.config.samples], i)
            * len(timesteps[i : i + self.config.samples])
            for i in range(0, len(timesteps), self.config.samples)
        ]
        return torch.stack(parts).sum(0) / len(timesteps)

    def penalty(self, white: Tensor) -> Tensor:
        return self.config.prior * ((white - self.start).square() * self.precision).mean(1)

    def run(self, progress: Progress | None) -> list[Inverted]:
        began = time.monotonic()
        config = self.config
        with self.model.conditioned(self.conditioning):
            mean_loss = self.judge(torch.zeros_like(self.start))
            white = self.start.clone()
            start_loss = mean_loss if not bool(self.start.any()) else self.judge(white)
            history = [(0, start_loss)]
            best, best_held, best_score = white.clone(), start_loss, start_loss + self.penalty(white)
            start_score, last_gain = best_score, torch.zeros_like(best_score)
            stale = torch.zeros(self.count, dtype=torch.long, device=white.device)
            first, second, step = torch.zeros_like(white), torch.zeros_like(white), 0
            while step < config.steps and bool((stale < config.patience).any()):
                noise, t = noise_for(config.seed, step, config.samples, self.shape, self.total, config.low, config.high)
                white = white.detach().requires_grad_()
                loss = self.losses(white, noise, t, step * config.samples) + self.penalty(white)
                (gradient,) = torch.autograd.grad(loss.sum(), white)
                with torch.no_grad():
                    first.lerp_(gradient, 0.1)
                    second.lerp_(gradient.square(), 0.01)
                    size = (second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-12
                    white = white - config.rate(step) * first / (1 - 0.9 ** (step + 1)) / size
                step += 1
                if step % config.every == 0 or step == config.steps:
                    held = self.judge(white)
                    history.append((step, held))
                    score = held + self.penalty(white)
                    better = score < best_score - 1e-5 * best_score.abs()
                    # A photo that has stopped improving keeps its answer while the others go on.
                    going = stale < config.patience
                    better &= going
                    gain = torch.where(better, best_score - score, 0.0)
                    last_gain = torch.where(going, gain, last_gain)
                    best = torch.where(better[:, None], white, best)
                    best_held = torch.where(better, held, best_held)
                    best_score = torch.where(better, score, best_score)
                    stale = torch.where(better, 0, stale + 1)
                    if progress is not None:
                        progress(step, config.steps, float(held.mean()))
            if config.emphasis != 1.0:
                best = best * config.emphasis
                best_held = self.judge(best)
        seconds = (time.monotonic() - began) / self.count
        settled = last_gain <= SETTLED * (start_score - best_score)
        coordinates = self.basis.coordinates(best)
        typical = best.square().mean(1).sqrt()
        return [
            Inverted(
                coordinates=coordinates[i],
                loss=float(best_held[i]),
                start_loss=float(start_loss[i]),
                mean_loss=float(mean_loss[i]),
                typicality=float(typical[i]),
                steps=step,
                converged=bool(settled[i]),
                history=tuple((s, float(v[i])) for s, v in history),
                seconds=seconds,
            )
            for i in range(self.count)
        ]
