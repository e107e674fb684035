"""A first estimate of a photo's coordinates: kernel ridge regression from what the base model already sees in it.

Features need nothing but the pipeline at hand: the photo's latents, pooled, and the activations in the middle of the
UNet while it looks at the photo with a little noise on it.  Fitted once per space, from photos of identities whose
coordinates are known (their training photos, or pictures drawn from them).  One forward pass then replaces most steps
of an inversion, and the regression's own error, component by component, says how far to trust it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from w2w_registry.diffusion.families import Conditioning
from w2w_registry.diffusion.invert import InitialPoint
from w2w_registry.diffusion.pipeline import DiffusionModel, memory_guard
from w2w_registry.diffusion.train import denoising_target
from w2w_registry.errors import UsageError

Array = NDArray[np.float32]

LATENT_SIDE: Final = 16
MIDDLE_VALUES: Final = 640
LEVELS: Final = (0.05, 0.3)
"""Noise levels the UNet looks at, as shares of the schedule: fine and coarse."""
LANDMARKS: Final = 2048
"""The most there are, and no more than four per photo."""
WIDTH_SAMPLE: Final = 500
RIDGES: Final = np.logspace(-3, 3, 13)
"""Penalties tried, in units of what one photo has in common with itself."""
MIN_IDENTITIES: Final = 20


@torch.no_grad()
def features(model: DiffusionModel, latents: Tensor, conditioning: Conditioning, batch: int = 32) -> Array:
    """What the base model sees in photos: (N, f) float32 from latents (N, C, h, w).  The same photo, the same row."""
    total = int(model.scheduler.config.num_train_timesteps)
    noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(model.device)
    seen: list[Tensor] = []
    middle: nn.Module | None = getattr(model.family.network, "mid_block", None)
    if middle is None:
        raise UsageError(reason="an initializer looks through the middle of a UNet, and this base model has none")
    handle = middle.register_forward_hook(lambda _m, _i, out: seen.append(out.float()))
    rows = []
    try:
        with memory_guard(model.device, "use [[dtype]] bfloat16"), model.conditioned(conditioning):
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
class Initializer:
    """Features (f,) → whitened coordinates (k,); the error's ``variance`` (k,).

    Standardised features, (x − mean) / std, are compared with ``landmarks`` (m, f), points among them; ``weights``
    (m, k) and ``bias`` (k,) make coordinates of the resemblances.  An initializer without landmarks is linear: its
    weights are (f, k) and apply to the features themselves.  They used to be so, and those kept are still read.
    """

    mean: Array
    std: Array
    weights: Array
    bias: Array
    variance: Array
    landmarks: Array | None = None
    width: Array | None = None

    def __call__(self, rows: Array) -> InitialPoint:
        """The initial points for features (N, f)."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise UsageError(reason="the initializer was fitted with another base model", hint="fit it again")
        seen = ((rows - self.mean) / self.std).astype(np.float32)
        if self.landmarks is not None and self.width is not None:
            seen = resemblance(seen, self.landmarks, float(self.width[0]))
        return InitialPoint(torch.from_numpy(seen @ self.weights + self.bias), torch.from_numpy(self.variance))

    def to_tensors(self) -> dict[str, Array]:
        return {n: value for n, value in vars(self).items() if value is not None}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> Initializer:
        return cls(**{f.name: np.asarray(tensors[f.name], np.float32) for f in fields(cls) if f.name in tensors})

    def fitted_to(self, components: int) -> Initializer:
        """The same initializer for so many components: later ones dropped, or left at the centre with full variance."""
        known = self.weights.shape[1]
        if components <= known:
            weights = np.ascontiguousarray(self.weights[:, :components])
            return replace(self, weights=weights, bias=self.bias[:components], variance=self.variance[:components])
        more = components - known
        return replace(
            self,
            weights=np.pad(self.weights, ((0, 0), (0, more))),
            bias=np.pad(self.bias, (0, more)),
            variance=np.pad(self.variance, (0, more), constant_values=1.0),
        )


def resemblance(rows: Array, landmarks: Array, width: float) -> Array:
    """Kernel (N, m) of standardised features (N, f) with (m, f): ``exp(−d² / width) + x·l / width``.

    The first part tells what only photos much like each other share, the second what changes in proportion.
    """
    product = rows @ landmarks.T
    apart = (rows * rows).sum(1)[:, None] + (landmarks * landmarks).sum(1)[None, :] - 2.0 * product
    return np.asarray(np.exp(-np.maximum(apart, 0.0) / width) + product / width, np.float32)


def _landmarks(x: Array, rng: np.random.Generator) -> Array:
    """Points (m, f) distributed as standardised features (n, f) are.

    Drawn, not picked: an initializer that is kept or handed on holds what photos have in common, and nobody's photo.
    """
    values, axes = np.linalg.eigh(x.T @ x / len(x))
    drawn = rng.standard_normal((min(LANDMARKS, 4 * len(x)), x.shape[1])) * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(drawn @ axes.T, np.float32)


def fit_initializer(
    rows: Array, white: Array, identities: NDArray[np.intp], *, folds: int = 5, seed: int = 0
) -> Initializer:
    """Fit on photos of known identities.

    Kernel ridge regression in the coordinates in which the landmarks' own kernel is the identity (the Nyström method,
    Williams & Seeger 2001), so that the size of the initializer does not grow with the photos.

    Args:
        rows: (n, f) features. white: (n, k) whitened coordinates of who each photo shows. identities: (n,) a number
            per identity: all photos of one are held out together, or the error would be of photos, not of people.

    Raises:
        UsageError: fewer than twenty identities.
    """
    people = np.unique(identities)
    if len(people) < MIN_IDENTITIES:
        raise UsageError(
            reason=f"an initializer needs photos of at least {MIN_IDENTITIES} identities, there are {len(people)}"
        )
    mean = rows.mean(0, dtype=np.float64)
    std = rows.std(0, dtype=np.float64)
    std = np.where(std > 1e-6 * max(float(std.max()), 1e-30), std, np.inf)
    x = ((rows - mean) / std).astype(np.float32)
    rng = np.random.default_rng(seed)
    landmarks = _landmarks(x, rng)
    width = _median_apart(x[rng.permutation(len(x))[:WIDTH_SAMPLE]])
    values, vectors = np.linalg.eigh(resemblance(landmarks, landmarks, width).astype(np.float64))
    kept = values > 1e-6 * values.max()
    inward = vectors[:, kept] / np.sqrt(values[kept])
    z, y = resemblance(x, landmarks, width) @ inward, white.astype(np.float64)
    centre, middle = z.mean(0), y.mean(0)
    fold_of = dict(zip(people.tolist(), (rng.permutation(len(people)) % folds).tolist(), strict=True))
    slopes, errors = _ridge(z - centre, y - middle, np.array([fold_of[i] for i in identities.tolist()]))
    return Initializer(
        mean.astype(np.float32),
        std.astype(np.float32),
        (inward @ slopes).astype(np.float32),
        (middle - centre @ slopes).astype(np.float32),
        errors.astype(np.float32),
        landmarks,
        np.array([width], np.float32),
    )


def _median_apart(x: Array) -> float:
    """Median squared distance among rows (n, f)."""
    product = x @ x.T
    apart = np.diag(product)[:, None] + np.diag(product)[None, :] - 2.0 * product
    return max(float(np.median(apart[~np.eye(len(x), dtype=bool)])), 1e-12)


def _ridge(
    z: NDArray[np.float64], y: NDArray[np.float64], fold: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ridge regression of centred y (n, k) on centred z (n, m): slopes (m, k) and cross-validated errors (k,).

    Every component takes the penalty that suits it: late ones are harder to see than early ones.
    """
    gram, cross = z.T @ z, z.T @ y
    errors = np.zeros((len(RIDGES), y.shape[1]))
    for f in np.unique(fold):
        own, truth = z[fold == f], y[fold == f]
        rest = len(z) - len(own)
        # The others' sums are everybody's without the fold's; everybody's mean is zero.
        away, off = -own.sum(0) / rest, -truth.sum(0) / rest
        spectrum, turn = np.linalg.eigh(gram - own.T @ own - rest * np.outer(away, away))
        inner = turn.T @ (cross - own.T @ truth - rest * np.outer(away, off))
        outer = (own - away) @ turn
        for i, penalty in enumerate(RIDGES):
            found = outer @ (inner / (np.maximum(spectrum, 0.0) + penalty)[:, None]) + off
            errors[i] += ((found - truth) ** 2).sum(0)
    errors /= len(y)
    chosen = RIDGES[errors.argmin(0)]
    spectrum, turn = np.linalg.eigh(gram)
    slopes = turn @ ((turn.T @ cross) / (np.maximum(spectrum, 0.0)[:, None] + chosen[None, :]))
    return slopes, errors.min(0)
