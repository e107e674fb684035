"""New identities from the distribution of known ones, mixtures of two, and how typical a point is.

Three distributions over coordinates (n, k), all with the identities' own mean and spread:

- ``independent``: one Gaussian per component (the paper, §3.3 and its appendix).
- ``full``: one Gaussian with the whole covariance, shrunk towards the diagonal as far as the data ask (Ledoit & Wolf
  2004), since identities registered later need not be uncorrelated in the space's components.
- ``unmixed``: yes/no attributes make identities many-humped along directions that are no component's own, and a
  Gaussian fills the valleys with half-worn glasses.  Independent component analysis (Hyvärinen 1999) finds the
  rotation of the leading whitened components whose axes are least Gaussian, which is where attributes lie; each axis
  is then drawn by itself from a smoothed bootstrap of the identities' values on it, the other components from their
  Gaussians.  Every axis takes a different donor, so no sample is a copy of anybody.

Numpy on float64 throughout; nothing here knows of names or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError

Array = NDArray[np.float64]
Shape = Literal["independent", "full", "unmixed"]
SHAPES: Final[tuple[Shape, ...]] = ("independent", "full", "unmixed")
LEADING: Final = 32
ROWS_PER_AXIS: Final = 20
BANDWIDTHS: Final = (0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)
MAX_ROUNDS: Final = 200


@dataclass(frozen=True, eq=False)
class Population:
    """A fitted distribution of coordinates; ``draw`` takes points from it.

    Attributes:
        mean, std: (k,).
        factor: (k, k) with ``factor @ factorᵀ`` the covariance. For ``full``.
        axes: (q, q) rows are what one unit of each unmixed axis does to the q leading components.
        donors: (n, q) the identities' values on those axes. bandwidths: (q,) the kernel of each. For ``unmixed``.
    """

    shape: Shape
    mean: Array
    std: Array
    factor: Array | None = None
    axes: Array | None = None
    donors: Array | None = None
    bandwidths: Array | None = None

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """(count, k) new points."""
        noise = rng.standard_normal((count, len(self.mean)))
        if self.factor is not None:
            return np.asarray(self.mean + noise @ self.factor.T)
        if self.axes is not None and self.donors is not None and self.bandwidths is not None:
            n, q = self.donors.shape
            rows = rng.integers(n, size=(count, q))
            # Shrinking the donors by what the kernel adds keeps the variance (Silverman 1986, §6.4).
            values = np.sqrt(1.0 - self.bandwidths**2) * np.take_along_axis(self.donors, rows, axis=0)
            leading = (values + self.bandwidths * noise[:, :q]) @ self.axes
            return np.asarray(self.mean + np.concatenate([leading, noise[:, q:] * self.std[q:]], axis=1))
        return np.asarray(self.mean + noise * self.std)


def fit_population(coordinates: ArrayLike, shape: Shape = "unmixed") -> Population:
    """The distribution of ``coordinates`` (n, k).

    Raises:
        UsageError: fewer than two identities, or an unknown shape.
    """
    points = np.asarray(coordinates, np.float64)
    if shape not in SHAPES:
        raise UsageError(reason=f"unknown distribution {shape!r}", hint="one of: " + ", ".join(SHAPES))
    if len(points) < 2:
        raise UsageError(reason="a distribution needs at least two identities in the space")
    mean, std = points.mean(0), points.std(0, ddof=1)
    if shape == "independent":
        return Population(shape, mean, std)
    if shape == "full":
        return Population(shape, mean, std, factor=_shrunk_factor(points - mean))
    q = max(1, min(LEADING, points.shape[1], len(points) // ROWS_PER_AXIS))
    leading = points[:, :q] - mean[:q]
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(leading, rowvar=False)))
    root = np.sqrt(np.maximum(values, 1e-12 * float(values[-1]) + 1e-300))
    white = leading @ vectors / root
    turn = _unmix(white)
    donors = white @ turn.T
    widths = np.array([_bandwidth(donors[:, j]) for j in range(q)])
    return Population(shape, mean, std, axes=turn * root @ vectors.T, donors=donors, bandwidths=widths)


def typicality(coordinates: ArrayLike, component_std: ArrayLike) -> Array:
    """Mahalanobis distance per component, ``sqrt(mean((c/std)²))``: 1 is an average member, (k,) → (), (n, k) → (n,).

    Dividing by the number of components makes one scale of spaces of any size; under the Gaussian the value is
    1 ± ``1/sqrt(2k)``.
    """
    std = np.asarray(component_std, np.float64)
    scale = np.maximum(std, 1e-6 * float(std.max(initial=0.0)) + 1e-30)
    return np.asarray(np.sqrt(((np.asarray(coordinates, np.float64) / scale) ** 2).mean(-1)))


def mix(points: Sequence[ArrayLike], weights: Sequence[float]) -> Array:
    """The convex combination of points (k,); weights are non-negative and are scaled to sum to one.

    Raises:
        UsageError: negative or all-zero weights, or not one weight per point.
    """
    shares = np.asarray(weights, np.float64)
    if len(points) != len(shares) or not len(shares):
        raise UsageError(reason="mixing needs one weight per identity")
    if not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        raise UsageError(reason="mixing weights must be zero or more, and not all zero")
    return np.asarray((shares / shares.sum()) @ np.stack([np.asarray(p, np.float64) for p in points]))


@dataclass(frozen=True, eq=False)
class Sampled:
    """Points (n, k), the index of the nearest known identity of each, and the distance to it."""

    points: Array
    nearest: NDArray[np.intp]
    distance: Array
    refused: int


def sample(
    population: Population,
    count: int,
    known: ArrayLike,
    *,
    seed: int,
    min_distance: float = 0.0,
    metric_weights: ArrayLike | None = None,
) -> Sampled:
    """``count`` points, none nearer than ``min_distance`` to a known identity (n, k) or to each other.

    Distance is one minus the cosine of the coordinates times ``metric_weights`` (k,): 0 is the same direction, 1 is
    unrelated.  Pass the weights of the space's identity metric, so that "near" means what search means by it.

    Raises:
        UsageError: the distance leaves no room (after ``MAX_ROUNDS`` rounds of drawing), or the request makes no sense.
    """
    if count < 1:
        raise UsageError(reason="the number of samples must be 1 or more")
    if not 0.0 <= min_distance < 2.0:
        raise UsageError(reason="the minimum distance is 1 − cosine: between 0 and 2")
    rng = np.random.default_rng(seed)
    others = np.asarray(known, np.float64).reshape(-1, len(population.mean))
    weights = np.ones(len(population.mean)) if metric_weights is None else np.asarray(metric_weights, np.float64)
    directions = _unit(others * weights)
    kept: list[Array] = []
    chosen = np.empty((0, len(population.mean)))
    nearest: list[int] = []
    distance: list[float] = []
    refused = 0
    for _ in range(MAX_ROUNDS):
        for point in population.draw(max(count - len(kept), 8), rng):
            if len(kept) == count:
                break
            unit = _unit(point * weights)
            likeness = directions @ unit
            best = int(np.argmax(likeness)) if len(likeness) else -1
            far = 1.0 - float(likeness[best]) if best >= 0 else 2.0
            between = 1.0 - float((chosen @ unit).max(initial=-1.0))
            if min_distance > 0 and min(far, between) < min_distance:
                refused += 1
                continue
            kept.append(point)
            chosen = np.concatenate([chosen, unit[None]])
            nearest.append(best)
            distance.append(far)
        if len(kept) == count:
            return Sampled(np.stack(kept), np.array(nearest, np.intp), np.array(distance), refused)
    raise UsageError(
        reason=f"only {len(kept)} of {count} samples lie at least {min_distance:g} from every identity",
        hint="ask for a smaller --min-distance or fewer samples",
    )


def _unit(rows: Array) -> Array:
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norm > 0, norm, 1.0))


def _shrunk_factor(centred: Array) -> Array:
    """Cholesky factor of the covariance, correlations shrunk by the Ledoit–Wolf share towards none at all."""
    n, k = centred.shape
    std = centred.std(0, ddof=1)
    white = centred / np.where(std > 0, std, 1.0)
    correlation = white.T @ white / (n - 1)
    off = correlation - np.diag(np.diag(correlation))
    # Variance of an estimated correlation is (E[x²y²] − r²)/n; summed over pairs without an (n, k, k) array.
    fourth = (white**2).T @ (white**2) / n
    noise = float((fourth - correlation**2).sum() - np.trace(fourth - correlation**2)) / n
    signal = float((off**2).sum())
    keep = 1.0 - min(1.0, max(0.0, noise / signal)) if signal > 0 else 0.0
    shrunk = keep * off + np.eye(k)
    values, vectors = np.linalg.eigh(shrunk)
    return np.asarray(std[:, None] * (vectors * np.sqrt(np.maximum(values, 0.0))))


def _unmix(white: Array, steps: int = 200) -> Array:
    """(q, q) orthonormal rows: FastICA with the log-cosh contrast, all axes at once, from the identity rotation."""
    n, q = white.shape
    axes = np.eye(q)
    for _ in range(steps):
        bent = np.tanh(white @ axes.T)
        moved = bent.T @ white / n - (1.0 - bent**2).mean(0)[:, None] * axes
        u, _, vt = np.linalg.svd(moved)
        after = u @ vt
        done = float(np.abs(np.abs((after * axes).sum(1)) - 1.0).max()) < 1e-6
        axes = after
        if done:
            break
    return axes


def _bandwidth(values: Array) -> float:
    """Kernel width with the best leave-one-out log-likelihood, judged on at most 1,000 identities."""
    points = values[:1000]
    best, width = -np.inf, 1.0
    for h in BANDWIDTHS:
        gap = points[:, None] - np.sqrt(1.0 - h**2) * points[None, :]
        density = np.exp(-(gap**2) / (2.0 * h**2)) / h
        np.fill_diagonal(density, 0.0)
        value = float(np.log(density.sum(1) + 1e-300).mean())
        if value > best:
            best, width = value, h
    return width
