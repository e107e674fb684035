"""New identities from the distribution of known ones, mixtures of two, and how typical a point is.

Three distributions over coordinates (n, k), all with the identities' own mean and spread:

- ``independent``: one Gaussian per component (the paper, §3.3 and its appendix).
- ``full``: one Gaussian with the whole covariance, shrunk towards the diagonal as far as the data ask (Ledoit & Wolf
  2004), since identities registered later need not be uncorrelated in the space's components.
- ``unmixed``: axes that vary by themselves, found by independent component analysis (``ica.py``).  The default:
  its samples are the ones that look like one person each.

Numpy on float64 throughout; nothing here knows of names or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space.ica import Unmixed, fit_unmixed

Array = NDArray[np.float64]
Shape = Literal["independent", "full", "unmixed"]
SHAPES: Final[tuple[Shape, ...]] = ("independent", "full", "unmixed")
_CELLS: Final = 4_000_000  # cosines held at once
MAX_ROUNDS: Final = 2000
"""A hundred samples 0.69 from everybody and from each other take some four thousand draws in the mini world."""


@dataclass(frozen=True, eq=False)
class Population:
    """A fitted distribution of coordinates; ``draw`` takes points from it.

    Attributes:
        mean, std: (k,).
        factor: (k, k) with ``factor @ factorᵀ`` the covariance. For ``full``.
        unmixed: the axes and what goes with them. For ``unmixed``.
    """

    shape: Shape
    mean: Array
    std: Array
    factor: Array | None = None
    unmixed: Unmixed | None = None

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """(count, k) new points."""
        if self.unmixed is not None:
            return np.asarray(self.mean + self.unmixed.draw(count, rng))
        noise = rng.standard_normal((count, len(self.mean)))
        if self.factor is not None:
            return np.asarray(self.mean + noise @ self.factor.T)
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
    return Population(shape, mean, std, unmixed=fit_unmixed(points - mean))


def typicality(coordinates: ArrayLike, component_std: ArrayLike) -> Array:
    """Mahalanobis distance per component, ``sqrt(mean((c/std)²))``: 1 is an average member, (k,) → (), (n, k) → (n,).

    Dividing by the number of components makes one scale of spaces of any size; under the Gaussian the value is
    1 ± ``1/sqrt(2k)``.
    """
    std = np.asarray(component_std, np.float64)
    scale = np.maximum(std, 1e-6 * float(std.max(initial=0.0)) + 1e-30)
    return np.asarray(np.sqrt(((np.asarray(coordinates, np.float64) / scale) ** 2).mean(-1)))


FAR: Final = 4.0
"""Standard deviations along any one line beyond which hardly anybody of a space lies (6 in 100,000 of a Gaussian)."""


def distance_along(coordinates: ArrayLike, moved: ArrayLike, component_std: ArrayLike) -> float:
    """Where a point (k,) lies on the line that ``moved`` (k,) it, from the mean in standard deviations of the space's
    people; 0 where it was not moved.

    ``typicality`` averages over all components and hardly changes where a few of a thousand do: five standard
    deviations of each of four attributes at once make 1.05 of 1 (1,000 people of the mini world).
    """
    std = np.asarray(component_std, np.float64)
    scale = np.maximum(std, 1e-6 * float(std.max(initial=0.0)) + 1e-30)
    line = np.asarray(moved, np.float64) / scale
    length = float(np.linalg.norm(line))
    return float((np.asarray(coordinates, np.float64) / scale) @ line) / length if length else 0.0


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
    if min_distance == 0.0:
        points = population.draw(max(count, 8), rng)[:count]
        nearest, distance = _nearest(directions, points, weights)
        return Sampled(points, nearest, distance, 0)
    kept: list[Array] = []
    chosen = np.empty((count, len(population.mean)))
    near: list[int] = []
    far: list[float] = []
    refused = 0
    for _ in range(MAX_ROUNDS):
        for point in population.draw(max(count - len(kept), 8), rng):
            if len(kept) == count:
                break
            unit = _unit(point * weights)
            (best,), (away,) = _nearest(directions, unit[None], 1.0)
            between = 1.0 - float((chosen[: len(kept)] @ unit).max(initial=-1.0))
            if min(away, between) < min_distance:
                refused += 1
                continue
            chosen[len(kept)] = unit
            kept.append(point)
            near.append(int(best))
            far.append(float(away))
        if len(kept) == count:
            return Sampled(np.stack(kept), np.array(near, np.intp), np.array(far), refused)
    raise UsageError(
        reason=f"only {len(kept)} of {count} samples lie at least {min_distance:g} from every identity and each other",
        hint="ask for a smaller [[min-distance]] or fewer samples",
    )


def _nearest(directions: Array, vectors: Array, weights: Array | float) -> tuple[NDArray[np.intp], Array]:
    """The nearest of ``directions`` (m, k; unit) to each of ``vectors`` (n, k) times ``weights``, −1 when there are
    none, and one minus the cosine (2 then), in blocks."""
    nearest, distance = np.full(len(vectors), -1, np.intp), np.full(len(vectors), 2.0)
    if len(directions):
        step = max(1, _CELLS // len(directions))
        for start in range(0, len(vectors), step):
            likeness = _unit(vectors[start : start + step] * weights) @ directions.T
            best = likeness.argmax(axis=1)
            nearest[start : start + step] = best
            distance[start : start + step] = 1.0 - likeness[np.arange(len(best)), best]
    return nearest, distance


def _unit(rows: Array) -> Array:
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norm > 0, norm, 1.0))


def _shrunk_factor(centred: Array) -> Array:
    """Cholesky factor of the covariance, correlations shrunk by the Ledoit–Wolf share towards none at all.

    Ours, and not a library's: a recorded sample is computed again bit for bit, whatever else is installed by then.
    """
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
