"""Confidence intervals of measured figures: of means by the bootstrap over identities (Efron 1979; seeded, percentile),
of shares by Wilson's score interval (1927), which still says something when all or none succeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError

DRAWS: Final = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval and the number of identities behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def mean(values: ArrayLike, seed: int = 0) -> Estimate:
    """The mean of one value (n,) per identity."""
    return _bootstrap(np.asarray(values, np.float64)[:, None], lambda rows: rows[..., 0], seed)


def share(hits: ArrayLike) -> Estimate:
    """The share of true values (n,), with Wilson's 95% interval; of nothing it is unknown: 0 to 1, and nan."""
    values = np.asarray(hits, bool)
    n = len(values)
    if not n:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    p, z2 = float(values.mean()), 1.959964**2
    centre, reach = p + z2 / (2 * n), float(np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))))
    return Estimate(p, max((centre - reach) / (1 + z2 / n), 0.0), min((centre + reach) / (1 + z2 / n), 1.0), n)


def ratio(numerator: ArrayLike, denominator: ArrayLike, seed: int = 0) -> Estimate:
    """Ratio of two means over the same identities (n,), resampled in pairs."""
    pairs = np.stack([np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)], axis=-1)
    return _bootstrap(pairs, lambda rows: rows[..., 0] / rows[..., 1], seed)


def _bootstrap(
    rows: NDArray[np.float64], figure: Callable[[NDArray[np.float64]], NDArray[np.float64]], seed: int
) -> Estimate:
    """``figure`` of the column means of ``rows`` (n, c), and its spread when identities are drawn with replacement."""
    if not len(rows) or not np.isfinite(rows).all():
        raise UsageError(reason="an interval needs finite values")
    picks = np.random.default_rng(seed).integers(len(rows), size=(DRAWS, len(rows)))
    low, high = np.quantile(figure(rows[picks].mean(1)), (0.025, 0.975))
    return Estimate(float(figure(rows.mean(0))), float(low), float(high), len(rows))
