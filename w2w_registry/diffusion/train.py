"""Batched DreamBooth: LoRAs of many identities trained in one batch, from latents that are already there.

Pure library: the model, the latents, the text embedding, the noise and the callback are injected; files, prompts and
commands live elsewhere.  The identities of a batch never influence each other: their losses are summed, and every
statistic of the optimiser is kept per identity.  Training with one identity or with sixteen gives the same LoRAs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.space.layout import Layout


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are plain DreamBooth with Adam.

    steps: optimiser steps.  samples: noisy photos per identity and step.  lr falls to zero by ``schedule``; ``a_lr``
    multiplies it for the A factors.  betas, eps: Adam's.  ``moment`` says over what Adam's second moment is shared:
    every "parameter" has its own, or all of a "tensor" (so that entries with next to no gradient do not random-walk).
    timesteps: the range [low, high) that is stratified over every step's samples.  antithetic: samples come in pairs of
    one timestep and opposite noise on two photos, so that what noise does to a gradient mostly cancels.  average_from:
    share of the steps after which weights are averaged; 1 keeps the last.  clip: bound on each identity's gradient
    norm.  prior_weight: weight of the prior-preservation loss, if prior latents are given.  bf16: forward and backward
    of float32 weights under bfloat16 autocast.  seed: of noise, timesteps and the order of photos.
    """

    steps: int = 800
    samples: int = 4
    lr: float = 1e-3
    a_lr: float = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    moment: Literal["parameter", "tensor"] = "parameter"
    timesteps: tuple[int, int] = (0, 1000)
    antithetic: bool = False
    average_from: float = 1.0
    clip: float | None = None
    prior_weight: float = 1.0
    bf16: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """The chance of one step, shared by all identities: noise (S, C, h, w), timesteps (S,), photo numbers (S,)."""

    noise: Tensor
    timesteps: Tensor
    photos: Tensor


@dataclass
class TrainState:
    """Everything a resumed run needs: step, θ, Adam's moments and the running average, each (G, D) float32."""

    step: int
    theta: Tensor
    first: Tensor
    second: Tensor
    average: Tensor
    losses: list[Tensor] = field(default_factory=list)

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors, for safetensors or torch.save."""
        losses = _gathered(self.losses, len(self.theta))
        step = torch.tensor(self.step)
        return {
            "step": step,
            "theta": self.theta,
            "first": self.first,
            "second": self.second,
            "average": self.average,
            "losses": losses,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> TrainState:
        """The inverse of ``to_tensors``."""
        moved = {k: tensors[k].clone() for k in ("theta", "first", "second", "average")}
        losses = tensors["losses"].to(moved["theta"].device)
        return cls(step=int(tensors["step"]), losses=list(losses.clone()), **moved)


@dataclass(frozen=True)
class Trained:
    """θ (G, D) float32 and the loss of every step and identity (steps, G)."""

    theta: Tensor
    losses: Tensor


def initial_theta(layout: Layout, seed: int) -> Tensor:
    """θ₀ (D,) float32: A uniform as a Linear of its width is initialised, B zero.

    Every identity of one space starts here: a shared initialisation is what makes their LoRAs comparable as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    theta = torch.zeros(layout.dim)
    for tensor, part in layout.slices():
        if tensor.factor == "A":
            bound = 1.0 / math.sqrt(math.prod(tensor.shape[1:]))
            theta[part] = (2.0 * torch.rand(tensor.size, generator=generator) - 1.0) * bound
    return theta


def draw(config: TrainConfig, step: int, photos: int, shape: tuple[int, ...]) -> Draw:
    """The chance of ``step``, from the seed and the step alone: a resumed run sees what it would have seen.

    Timesteps are stratified over the range, photos are dealt like cards: none comes twice before all have come once.
    """
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF)
    pairs = 2 if config.antithetic else 1
    count = -(-config.samples // pairs)
    low, high = config.timesteps
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timesteps = (low + strata * (high - low)).long().clamp(low, high - 1)
    noise = torch.randn((count, *shape), generator=generator)
    dealt = []
    for n in range(step * config.samples, (step + 1) * config.samples):
        deck = torch.Generator().manual_seed(config.seed * 7_919 + 104_729 * (n // photos + 1))
        dealt.append(torch.randperm(photos, generator=deck)[n % photos])
    chosen = torch.stack(dealt)
    # Dealt photos and sorted strata must not go together step after step.
    chosen = chosen[torch.randperm(config.samples, generator=generator)]
    if config.antithetic:
        noise = torch.cat([noise, -noise])[: config.samples]
        timesteps = timesteps.repeat(2)[: config.samples]
    return Draw(noise, timesteps, chosen)


def rate(config: TrainConfig, step: int) -> float:
    """The learning rate of ``step``."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    done = step / config.steps
    if config.schedule == "linear":
        return config.lr * warm * (1.0 - done)
    if config.schedule == "cosine":
        return config.lr * warm * 0.5 * (1.0 + math.cos(math.pi * done))
    return config.lr * warm


def denoising_target(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """(noisy latents, what the model should predict), each (N, C, h, w), for an epsilon, v or sample scheduler, or one
    that says it itself (``families.flow.Flow``)."""
    own = getattr(scheduler, "denoising_target", None)
    if own is not None:
        said: tuple[Tensor, Tensor] = own(latents, noise, timesteps)
        return said
    alphas = scheduler.alphas_cumprod.to(device=latents.device, dtype=latents.dtype)[timesteps]
    a = alphas.sqrt()[:, None, None, None]
    s = (1.0 - alphas).sqrt()[:, None, None, None]
    noisy = a * latents + s * noise
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noisy, noise
    if kind == "v_prediction":
        return noisy, a * noise - s * latents
    if kind == "sample":
        return noisy, latents
    raise ValueError(f"unknown prediction type {kind!r}")


def start_state(theta0: Tensor, identities: int) -> TrainState:
    """Step 0 for ``identities`` LoRAs that all begin at ``theta0`` (D,)."""
    theta = theta0.detach().float()[None].repeat(identities, 1)
    zeros = torch.zeros_like(theta)
    return TrainState(0, theta, zeros, zeros.clone(), zeros.clone())


def _share(second: Tensor, layout: Layout) -> Tensor:
    """The mean of (G, D) over every tensor of the layout, spread back to (G, D)."""
    sizes = torch.tensor([t.size for t in layout.tensors], device=second.device)
    means = [part.mean(dim=1, keepdim=True) for part in torch.split(second, sizes.tolist(), dim=1)]
    return torch.cat(means, dim=1).repeat_interleave(sizes, dim=1)


def train(
    unet: Any,
    scheduler: Any,
    layout: Layout,
    theta0: Tensor,
    latents: Tensor,
    text: Tensor,
    config: TrainConfig,
    *,
    prior_latents: Tensor | None = None,
    prior_text: Tensor | None = None,
    state: TrainState | None = None,
    callback: Callable[[TrainState], None] | None = None,
    at_once: int | None = None,
    checkpointing: bool = False,
) -> Trained:
    """Train one LoRA per identity, all in one batch.

    ``at_once``: so many identities go through the UNet together (None: all); a step then takes several passes, which
    changes nothing but rounding, as identities do not touch one another. ``checkpointing``: activations are computed
    again on the way back, which takes a third more time and a fraction of the memory.

    theta0 (D,); latents (G, P, C, h, w) of P photos per identity, scaled as the UNet wants them; text (L, E), the
    embedding of the prompt, or (G, L, E).  Prior preservation: prior_latents (Q, C, h, w) of pictures of the class
    and prior_text (L, E).  ``state`` resumes; ``callback`` sees the state after every step and may save it (it must not
    keep it: the tensors are reused).  The UNet's own weights get no gradient.
    """
    device = latents.device
    groups, photos = latents.shape[:2]
    shape = tuple(latents.shape[2:])
    bank = LoraBank(unet, layout)
    state = state or start_state(theta0.to(device), groups)
    prior = None
    if prior_latents is not None and prior_text is not None and config.prior_weight > 0:
        prior = prior_latents, prior_text
    pace = _pace(layout, config, device)
    share = at_once or groups
    with _frozen(unet, checkpointing):
        while state.step < config.steps:
            now = draw(config, state.step, photos, shape)
            count = len(now.timesteps)
            x = latents[:, now.photos.to(device)]
            words = text.expand(groups, *text.shape[-2:])[:, None].expand(groups, count, *text.shape[-2:])
            noise = now.noise.to(device).expand(groups, count, *shape)
            if prior is not None:
                other = (now.photos.to(device) + state.step * count) % len(prior[0])
                x, words, noise = _beside(x, words, noise, prior[0][other], prior[1])
            t = now.timesteps.to(device).repeat(x.shape[1] // count)
            passes = [
                _gradient(unet, scheduler, bank, state.theta[part], x[part], noise[part], t, words[part], count, config)
                for part in (slice(first, first + share) for first in range(0, groups, share))
            ]
            with torch.no_grad():
                _adam(state, torch.cat([gradient for gradient, _ in passes]), pace, layout, config)
            state.losses.append(torch.cat([loss for _, loss in passes]))  # stays on the device: reading it would wait
            if callback is not None:
                callback(state)
    return Trained(_averaged(state, config), _gathered(state.losses, groups))


def _averaged(state: TrainState, config: TrainConfig) -> Tensor:
    """θ (G, D): the mean of the last steps, or the last step's where none are averaged."""
    averaged = config.steps - _average_start(config)
    theta = state.average / averaged if averaged else state.theta
    return theta.detach().clone()


def _pace(layout: Layout, config: TrainConfig, device: Any) -> Tensor:
    """The rate of each parameter beside the common one, (D,): A has its own."""
    pace = torch.ones(layout.dim, device=device)
    for tensor, part in layout.slices():
        if tensor.factor == "A":
            pace[part] = config.a_lr
    return pace


def _beside(x: Tensor, words: Tensor, noise: Tensor, other: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, words and noise (G, N, …) with pictures of the class (N, …) behind them: the same ones, with the same
    noise, for every identity."""
    groups, count = x.shape[:2]
    pictures = torch.cat([x, other.expand(groups, count, *other.shape[1:])], dim=1)
    prompts = torch.cat([words, prompt.expand(groups, count, *prompt.shape[-2:])], dim=1)
    return pictures, prompts, torch.cat([noise, noise], dim=1)


@contextmanager
def _frozen(unet: Any, checkpointing: bool) -> Iterator[None]:
    """The UNet's own weights get no gradient meanwhile; with ``checkpointing`` its activations are not kept."""
    frozen = [p for p in unet.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        if checkpointing:
            unet.enable_gradient_checkpointing()
        yield
    finally:
        if checkpointing:
            unet.disable_gradient_checkpointing()
        for parameter in frozen:
            parameter.requires_grad_(True)


def _gradient(
    unet: Any,
    scheduler: Any,
    bank: LoraBank,
    theta: Tensor,
    x: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    words: Tensor,
    own: int,
    config: TrainConfig,
) -> tuple[Tensor, Tensor]:
    """Gradient (g, D) and loss (g,) of some identities.

    x and noise are (g, S, C, h, w), timesteps (S,), words (g, S, L, E). Of the S noisy pictures the first ``own`` are
    of the identities, the others of the class.
    """
    groups, each, shape = len(theta), x.shape[1], x.shape[2:]
    t = timesteps.repeat(groups)
    noisy, target = denoising_target(scheduler, x.reshape(-1, *shape), noise.reshape(-1, *shape), t)
    theta = theta.detach().requires_grad_()
    dtype = next(unet.parameters()).dtype
    # Half-precision weights need no autocast, which would only write every norm's output out in float32.
    lowered = config.bf16 and dtype == torch.float32
    cast = torch.autocast(theta.device.type, torch.bfloat16) if lowered else nullcontext()
    with bank.apply(theta):
        with cast:
            out = unet(noisy.to(dtype), t, words.reshape(-1, *words.shape[2:]).to(dtype)).sample
        error = (out.float() - target).square().flatten(1).mean(dim=1).reshape(groups, each)
        loss = error[:, :own].mean(dim=1)
        if each > own:
            loss = loss + config.prior_weight * error[:, own:].mean(dim=1)
        # Inside: where activations are computed again, the LoRAs have to be there again.
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
    return gradient, loss.detach()


def _gathered(losses: list[Tensor], groups: int) -> Tensor:
    """(steps, G) on the CPU."""
    return torch.stack(losses).cpu() if losses else torch.zeros(0, groups)


def _average_start(config: TrainConfig) -> int:
    return min(config.steps, round(config.average_from * config.steps))


def _adam(state: TrainState, gradient: Tensor, pace: Tensor, layout: Layout, config: TrainConfig) -> None:
    """One step of Adam on (G, D), every identity for itself; moves ``state`` to the next step."""
    if config.clip is not None:
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (config.clip / norm.clamp_min(config.clip))
    beta1, beta2 = config.betas
    state.theta = state.theta.detach()
    state.first.lerp_(gradient, 1.0 - beta1)
    state.second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    second = _share(state.second, layout) if config.moment == "tensor" else state.second
    lr = rate(config, state.step) / (1.0 - beta1 ** (state.step + 1))
    scale = second.div(1.0 - beta2 ** (state.step + 1)).sqrt_().add_(config.eps)
    state.theta = state.theta - lr * pace * state.first / scale
    if state.step >= _average_start(config):
        state.average += state.theta
    state.step += 1
