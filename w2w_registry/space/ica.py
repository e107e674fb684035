"""Identities drawn attribute by attribute, without knowing the attributes: independent axes and what follows from them.

Yes/no attributes make identities many-humped along directions that are no component's own, and a Gaussian fills the
valleys with half-worn glasses.  Independent component analysis (Hyvärinen 1999) finds the rotation of the leading
whitened components whose axes are least Gaussian, which is where attributes lie; each axis is then drawn by itself from
a smoothed bootstrap of the identities' values on it.  Every axis takes a different donor, so no sample is a copy of
anybody.

The later components are not free: they hold what attributes do together, and what training left behind.  A quadratic
regression on the axes says the first, which makes a sample one person instead of many at once; the second is nobody's
trait and is left out.  That would make samples milder than trained identities, so they are moved away from the mean
until they are as far from it, and ``EMPHASIS`` more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEADING: Final = 16
"""Axes at most: further components hold more training noise than traits that vary by themselves."""
ROWS_PER_AXIS: Final = 20
RIDGES: Final = np.logspace(-3, 1, 9)
"""Candidates for the penalty of the later components' regression, as shares of the number of identities."""
FOLDS: Final = 5
EMPHASIS: Final = 1.2
"""At the identities' own distance from the mean, pictures of samples still agree less over seeds than theirs do; with
this they agree as much and vary as much (measured on the mini world's fit split)."""
MAX_REACH: Final = 2.0
BANDWIDTHS: Final = (0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)


@dataclass(frozen=True, eq=False)
class Unmixed:
    """Independent axes of coordinates about their mean.

    Attributes:
        axes: (q, q) rows are what one unit of each axis does to the q leading components.
        donors: (n, q) the identities' values on the axes. bandwidths: (q,) the kernel of each.
        rest: (1 + q + q(q+1)/2, k − q) what the axes and their products say of the later components.
        spare: (k − q,) std of what is drawn by itself of them.
        reach: factor from the mean.
    """

    axes: Array
    donors: Array
    bandwidths: Array
    rest: Array
    spare: Array
    reach: float

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """(count, k) new points, about the mean."""
        n, q = self.donors.shape
        rows = rng.integers(n, size=(count, q))
        # Shrinking the donors by what the kernel adds keeps the variance (Silverman 1986, §6.4).
        values = np.sqrt(1.0 - self.bandwidths**2) * np.take_along_axis(self.donors, rows, axis=0)
        values = values + self.bandwidths * rng.standard_normal((count, q))
        later = _terms(values) @ self.rest + self.spare * rng.standard_normal((count, len(self.spare)))
        return np.asarray(self.reach * np.concatenate([values @ self.axes, later], axis=1))


def fit_unmixed(centred: Array) -> Unmixed:
    """The axes of coordinates (n, k) about their mean, components sorted by variance."""
    n, k = centred.shape
    q = max(1, min(LEADING, k, n // ROWS_PER_AXIS))
    leading, later = centred[:, :q], centred[:, q:]
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(leading, rowvar=False)))
    root = np.sqrt(np.maximum(values, 1e-12 * float(values[-1]) + 1e-300))
    white = leading @ vectors / root
    turn = _unmix(white)
    donors = white @ turn.T
    widths = np.array([_bandwidth(donors[:, j]) for j in range(q)])
    axes = turn * root @ vectors.T
    terms = _terms(donors)
    rest = _explain(terms, later)
    # A small space has fewer axes than traits: what they leave of the leading components is still somebody's.
    spare = (later - terms @ rest).std(0)
    spare[max(0, LEADING - q) :] = 0.0
    told = float(((donors @ axes) ** 2).sum() + ((terms @ rest) ** 2).sum() + n * (spare**2).sum())
    reach = min(MAX_REACH, EMPHASIS * float(np.sqrt((centred**2).sum() / told))) if told > 0 else 1.0
    return Unmixed(axes, donors, widths, rest, spare, reach)


def _unmix(white: Array, steps: int = 200) -> Array:
    """(q, q) orthonormal rows: FastICA with the log-cosh contrast, all axes at once, from the identity rotation.

    Ours, and not a library's: a recorded sample is computed again bit for bit, whatever else is installed by then.
    """
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


def _terms(values: Array) -> Array:
    """(n, q) → (n, 1 + q + q(q+1)/2): one, the values, and their products."""
    first, second = np.triu_indices(values.shape[1])
    return np.concatenate([np.ones((len(values), 1)), values, values[:, first] * values[:, second]], axis=1)


def _explain(terms: Array, targets: Array) -> Array:
    """(t, m) ridge weights from terms (n, t) to targets (n, m), each column with its own cross-validated penalty.

    Columns of which the terms say nothing that holds for identities left out get zeros.
    """
    n, count = targets.shape
    penalties = RIDGES * n
    fold = np.random.default_rng(0).permutation(n) % FOLDS
    errors = np.zeros((len(penalties), count))
    for f in range(min(FOLDS, n)):
        held = fold == f
        for error, weights in zip(errors, _ridges(terms[~held], targets[~held], penalties), strict=True):
            error += ((terms[held] @ weights - targets[held]) ** 2).sum(0)
    best = errors.argmin(0)
    found = np.zeros((terms.shape[1], count))
    for i, weights in enumerate(_ridges(terms, targets, penalties)):
        found[:, best == i] = weights[:, best == i]
    return np.asarray(np.where(errors.min(0) < (targets**2).sum(0), found, 0.0))


def _ridges(terms: Array, targets: Array, penalties: Array) -> Iterator[Array]:
    """Ridge weights (t, m) for every penalty."""
    values, vectors = np.linalg.eigh(terms.T @ terms)
    inner = vectors.T @ (terms.T @ targets)
    for penalty in penalties:
        yield vectors @ (inner / (np.maximum(values, 0.0) + penalty)[:, None])


def _bandwidth(values: Array) -> float:
    """Kernel width with the best leave-one-out log-likelihood, judged on at most 500 identities."""
    points = values[:500]
    best, width = -np.inf, 1.0
    for h in BANDWIDTHS:
        gap = points[:, None] - np.sqrt(1.0 - h**2) * points[None, :]
        density = np.exp(-(gap**2) / (2.0 * h**2)) / h
        np.fill_diagonal(density, 0.0)
        value = float(np.log(density.sum(1) + 1e-300).mean())
        if value > best:
            best, width = value, h
    return width
