"""A first guess of a photo's coordinates: ridge regression from what the base model already sees in it.

Features need nothing but the pipeline at hand: the photo's latents, pooled, and the activations in the middle of the
UNet while it looks at the photo with a little noise on it.  Fitted once per space, from photos of identities whose
coordinates are known (their training photos, or pictures drawn from them).  One forward pass then replaces most steps
of an inversion, and the regression's own error, component by component, says how far to trust the guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from w2w_registry.diffusion.invert import Guess
from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel, memory_guard
from w2w_registry.diffusion.train import denoising_target
from w2w_registry.errors import UsageError

Array = NDArray[np.float32]

LATENT_SIDE: Final = 16
MIDDLE_VALUES: Final = 640
LEVELS: Final = (0.05, 0.3)
"""Noise levels the UNet looks at, as shares of the schedule: fine and coarse."""
MAX_RANK: Final = 1024
RIDGES: Final = np.logspace(-5, 1, 13)
MIN_IDENTITIES: Final = 20


@torch.no_grad()
def features(model: DiffusionModel, latents: Tensor, conditioning: Conditioning, batch: int = 32) -> Array:
    """What the base model sees in photos: (N, f) float32 from latents (N, C, h, w).  The same photo, the same row."""
    total = int(model.scheduler.config.num_train_timesteps)
    noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(model.device)
    seen: list[Tensor] = []
    middle: nn.Module = model.pipe.unet.mid_block
    handle = middle.register_forward_hook(lambda _m, _i, out: seen.append(out.float()))
    rows = []
    try:
        with memory_guard(model.device, "use --dtype bfloat16"), model.conditioned(conditioning):
            for start in range(0, len(latents), batch):
                part = latents[start : start + batch].to(model.device, torch.float32)
                side = min(LATENT_SIDE, part.shape[-1])
                found = [adaptive_avg_pool2d(part, side).flatten(1)]
                text = conditioning.text.to(model.dtype).expand(len(part), *conditioning.text.shape)
                for level in LEVELS:
                    t = torch.full((len(part),), round(level * (total - 1)), device=model.device)
                    noisy, _ = denoising_target(model.scheduler, part, noise.expand_as(part), t)
                    seen.clear()
                    model.unet(noisy.to(model.dtype), t, text)
                    (out,) = seen
                    across = max(1, min(out.shape[-1], int((MIDDLE_VALUES / out.shape[1]) ** 0.5)))
                    found.append(adaptive_avg_pool2d(out, across).flatten(1))
                rows.append(torch.cat(found, dim=1).cpu())
    finally:
        handle.remove()
    return np.asarray(torch.cat(rows).numpy(), np.float32)


@dataclass(frozen=True, eq=False)
class GuessModel:
    """Features (f,) → whitened coordinates (k,) by ``(x − mean) / std @ weights + bias``; error ``variance`` (k,)."""

    mean: Array
    std: Array
    weights: Array
    bias: Array
    variance: Array

    def __call__(self, rows: Array) -> Guess:
        """The guess for features (N, f)."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise UsageError(reason="the guess was fitted with another base model", hint="fit it again")
        white = ((rows - self.mean) / self.std) @ self.weights + self.bias
        return Guess(torch.from_numpy(white), torch.from_numpy(self.variance))

    def to_tensors(self) -> dict[str, Array]:
        return {n: getattr(self, n) for n in ("mean", "std", "weights", "bias", "variance")}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> GuessModel:
        return cls(**{n: np.asarray(tensors[n], np.float32) for n in ("mean", "std", "weights", "bias", "variance")})

    def fitted_to(self, components: int) -> GuessModel:
        """The same guess for so many components: later ones dropped, or left at the centre with full variance."""
        known = self.weights.shape[1]
        if components <= known:
            weights = np.ascontiguousarray(self.weights[:, :components])
            return GuessModel(self.mean, self.std, weights, self.bias[:components], self.variance[:components])
        more = components - known
        return GuessModel(
            self.mean,
            self.std,
            np.pad(self.weights, ((0, 0), (0, more))),
            np.pad(self.bias, (0, more)),
            np.pad(self.variance, (0, more), constant_values=1.0),
        )


def fit_guess(rows: Array, white: Array, identities: NDArray[np.intp], *, folds: int = 5, seed: int = 0) -> GuessModel:
    """Fit on photos of known identities.

    Args:
        rows: (n, f) features. white: (n, k) whitened coordinates of who each photo shows. identities: (n,) a number
            per identity: all photos of one are held out together, or the error would be of photos, not of people.

    Raises:
        UsageError: fewer than twenty identities.
    """
    people = np.unique(identities)
    if len(people) < MIN_IDENTITIES:
        raise UsageError(
            reason=f"a guess needs photos of at least {MIN_IDENTITIES} identities, there are {len(people)}"
        )
    mean = rows.mean(0, dtype=np.float64)
    std = rows.std(0, dtype=np.float64)
    std = np.where(std > 1e-6 * max(float(std.max()), 1e-30), std, np.inf)
    x = ((rows - mean) / std).astype(np.float64)
    # Rotated to principal axes once: every fold and penalty then works on at most MAX_RANK columns.
    values, vectors = np.linalg.eigh(x.T @ x if x.shape[1] <= len(x) else x @ x.T)
    order = np.argsort(-values)[: min(MAX_RANK, int((values > 1e-9 * values.max()).sum()))]
    axes = vectors[:, order]
    if x.shape[1] > len(x):
        axes = x.T @ axes / np.sqrt(values[order])
    z, y = x @ axes, white.astype(np.float64)
    rng = np.random.default_rng(seed)
    fold_of = dict(zip(people.tolist(), (rng.permutation(len(people)) % folds).tolist(), strict=True))
    fold = np.array([fold_of[i] for i in identities.tolist()])
    penalties = RIDGES * float(values.max())
    errors = np.zeros((len(penalties), y.shape[1]))
    for f in range(folds):
        held = fold == f
        centre, middle = z[~held].mean(0), y[~held].mean(0)
        gram, cross = (z[~held] - centre).T @ (z[~held] - centre), (z[~held] - centre).T @ (y[~held] - middle)
        spectrum, turn = np.linalg.eigh(gram)
        inner, outer = turn.T @ cross, (z[held] - centre) @ turn
        for i, penalty in enumerate(penalties):
            guess = outer @ (inner / (np.maximum(spectrum, 0.0) + penalty)[:, None]) + middle
            errors[i] += ((guess - y[held]) ** 2).sum(0)
    errors /= len(y)
    # Late components are harder to see than early ones: each takes the penalty that suits it.
    chosen = errors.argmin(0)
    centre, middle = z.mean(0), y.mean(0)
    spectrum, turn = np.linalg.eigh((z - centre).T @ (z - centre))
    inner = turn.T @ ((z - centre).T @ (y - middle))
    weights = axes @ (turn @ (inner / (np.maximum(spectrum, 0.0)[:, None] + penalties[chosen][None, :])))
    bias = middle - ((z.mean(0)) @ (axes.T @ weights))
    return GuessModel(
        mean.astype(np.float32),
        std.astype(np.float32),
        weights.astype(np.float32),
        bias.astype(np.float32),
        errors.min(0).astype(np.float32),
    )
