"""Comparing identities: cosine on θ, on ΔW, on coordinates and on weighted coordinates; what score means "same".

Every comparison of coordinates here is a map to unit vectors, so that an inner-product index can serve it.

With ``b`` the variance of a component between identities and ``w`` the variance between trainings of one
identity, its reliability is ρ = b / (b + w). The product of two whitened coordinates has mean ρ for one identity
trained twice, and mean 0 and variance 1 for two strangers; the weighted sum of products that lifts the same identity
furthest out of the strangers' spread weights each by its ρ (Fisher's criterion). So vectors are whitened and
multiplied by √ρ. Without repeats ρ is unknown; where it falls about in proportion to the standard deviation, as in
every set measured so far (docs/metric.md), √ρ / std is std^-½: half-whitening, the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]

_TAIL_SHARE = 0.003  # of the impostor scores, the part the tail is fitted on: more would bend the extrapolation
_MAX_TAIL = 2000
_ALMOST_ONE = 1 - 1e-12


@dataclass(frozen=True)
class Metric:
    """How two points are compared: the inner product of ``unit`` of each, between −1 and 1.

    ``unit(c)`` = normalise(((c − centre) · weights)), (k,); ``weights`` None = all one, ``centre`` None = zero.
    """

    name: str
    weights: tuple[float, ...] | None = None
    centre: tuple[float, ...] | None = None

    def unit(self, coordinates: ArrayLike) -> Float32:
        """Unit vectors (k,) or (n, k) float32; a point at the centre gives zeros."""
        c = np.asarray(coordinates, np.float64)
        if self.centre is not None:
            c = c - np.asarray(self.centre)
        if self.weights is not None:
            c = c * np.asarray(self.weights)
        norm = np.linalg.norm(c, axis=-1, keepdims=True)
        unit: Float32 = np.divide(c, norm, out=np.zeros_like(c), where=norm > 0).astype(np.float32)
        return unit

    def score(self, a: ArrayLike, b: ArrayLike) -> Array:
        """Scores of a (…, k) against b (…, k), row by row."""
        return np.asarray(np.einsum("...k,...k->...", self.unit(a).astype(np.float64), self.unit(b)))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weights": None if self.weights is None else list(self.weights),
            "centre": None if self.centre is None else list(self.centre),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metric:
        def vector(value: Any) -> tuple[float, ...] | None:
            return None if value is None else tuple(float(v) for v in value)

        return cls(str(data["name"]), vector(data["weights"]), vector(data["centre"]))


# -- metrics of coordinates ---------------------------------------------------------------------
def cosine() -> Metric:
    """Plain cosine of coordinates: what the paper uses for neighbours."""
    return Metric("cosine")


def powered(component_std: ArrayLike, power: float, name: str | None = None) -> Metric:
    """Components divided by std^power: 0 is plain cosine, 1 is whitened."""
    return _metric(name or f"power-{power:g}", _safe(component_std) ** -power)


def reliability_weighted(component_std: ArrayLike, reliability: ArrayLike, name: str = "reliability") -> Metric:
    """Whitened components multiplied by √ρ, so that a product counts ρ (see the module's head)."""
    return _metric(name, np.sqrt(np.clip(np.asarray(reliability, np.float64), 0.0, 1.0)) / _safe(component_std))


def default_metric(component_std: ArrayLike) -> Metric:
    """The metric of a space nobody gave repeats for: the best that needs none (docs/metric.md has the table)."""
    return powered(component_std, 0.5, "half-whitened")


def _metric(name: str, weights: Array) -> Metric:
    # Only ratios matter to a cosine; a largest weight of 1 and float32 values keep the record short and stable.
    largest = float(weights.max(initial=0.0))
    scaled = (weights / largest if largest > 0 else weights).astype(np.float32)
    return Metric(name, tuple(float(w) for w in scaled))


def _safe(component_std: ArrayLike) -> Array:
    std = np.asarray(component_std, np.float64)
    return np.asarray(np.maximum(std, 1e-6 * float(std.max(initial=0.0)) + 1e-30))


def repeat_reliability(first: ArrayLike, second: ArrayLike) -> Float32:
    """ρ (k,) per component from two trainings of the same n identities, coordinates (n, k) each.

    The correlation between repeats, shrunk towards zero as far as chance explains it: a correlation of n pairs strays
    from zero by 1/√n (James & Stein's positive-part factor, at two such errors). Without that, a few hundred
    components of pure noise, each taken for a little reliable, drown the good ones.

    Raises:
        UsageError: with fewer than eight repeats the figure would be noise.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or len(a) < 8:
        raise UsageError(reason="repeat reliability needs at least eight identities trained twice")
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    rho = np.divide((a * b).sum(0), size, out=np.zeros(a.shape[1]), where=size > 0).clip(0.0, 1.0)
    chance = 4.0 / (len(a) * np.maximum(rho, 1e-9) ** 2)
    reliability: Float32 = (rho * np.maximum(0.0, 1.0 - chance)).astype(np.float32)
    return reliability


# -- what score means "same identity" -----------------------------------------------------------
@dataclass(frozen=True)
class Calibration:
    """A score at or above ``threshold`` means "same identity", at this chance of being wrong for one pair.

    ``false_match_rate`` is the rate asked for; ``observed`` the share of different-identity pairs at or above the
    threshold in the space's own data (``pairs`` of them). ``method``: ``counted`` when enough pairs lie beyond the
    threshold, ``tail`` when it was extrapolated (generalised Pareto fit of the highest scores).
    ``true_match_rate``: share of same-identity pairs accepted, None without repeats.
    """

    metric: str
    threshold: float
    false_match_rate: float
    observed: float
    pairs: int
    method: Literal["counted", "tail"]
    true_match_rate: float | None = None
    repeats: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        return cls(**data)


def calibrate_scores(
    metric: str, impostors: ArrayLike, *, genuine: ArrayLike | None = None, false_match_rate: float = 1e-5
) -> Calibration:
    """The threshold of a metric at a stated false-match rate.

    Args:
        impostors: scores of different identities. genuine: of same ones, where there are repeats.
    """
    scores = np.asarray(impostors, np.float64).reshape(-1)
    threshold, method = _quantile(scores, false_match_rate)
    same = None if genuine is None else np.asarray(genuine, np.float64).reshape(-1)
    return Calibration(
        metric,
        threshold,
        false_match_rate,
        float((scores >= threshold).mean()),
        len(scores),
        method,
        None if same is None else float((same >= threshold).mean()),
        0 if same is None else len(same),
    )


def false_alarm_among(scores: ArrayLike, threshold: float, rate: float, people: int) -> Array:
    """Chance that a stranger among ``people`` scores so high with one of them, for each score (…).

    Extrapolated from the calibrated pair (``threshold`` exceeded by a share ``rate`` of pairs) by a normal tail of
    artanh(score). A pair's rate becomes a search's by the number of pairs.
    """
    normal = NormalDist()
    spread = math.atanh(min(threshold, _ALMOST_ONE)) / normal.inv_cdf(1 - rate)
    opened = np.arctanh(np.clip(np.asarray(scores, np.float64), -_ALMOST_ONE, _ALMOST_ONE)) / spread
    pair = np.array([0.5 * math.erfc(z / math.sqrt(2)) for z in np.atleast_1d(opened).ravel()])
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(people * np.log1p(-pair))).reshape(np.shape(scores))


def _quantile(scores: Array, rate: float) -> tuple[float, Literal["counted", "tail"]]:
    """The score exceeded by a share ``rate``: counted with at least 20 beyond it, else from a Pareto tail.

    Pickands–Balkema–de Haan: exceedances over a high level follow a generalised Pareto law; its shape ξ and scale
    β by probability-weighted moments (Hosking & Wallis, Technometrics 1987), which is closed form and stable. The
    fit is made on artanh of the scores (Fisher), which opens the end at 1 that would bend the tail.
    """
    n = len(scores)
    if rate * n >= 20:
        return float(np.quantile(scores, 1 - rate)), "counted"
    opened = np.arctanh(np.clip(scores, -_ALMOST_ONE, _ALMOST_ONE))
    size = int(min(max(100, _TAIL_SHARE * n), _MAX_TAIL, n // 2))
    tail = np.sort(np.partition(opened, n - size - 1)[n - size - 1 :])
    level, excess = float(tail[0]), tail[1:] - tail[0]
    m = len(excess)
    mean = float(excess.mean())
    # E[X (1 − F(X))] with the plotting position of the i-th smallest.
    weighted = float((excess * (1 - (np.arange(1, m + 1) - 0.35) / m)).mean())
    if mean <= 0 or mean - 2 * weighted <= 0:
        return float(np.tanh(tail[-1])), "tail"
    shape = 2 - mean / (mean - 2 * weighted)
    scale = 2 * mean * weighted / (mean - 2 * weighted)
    ratio = rate * n / m
    reach = scale * -np.log(ratio) if abs(shape) < 1e-9 else scale / shape * (ratio**-shape - 1)
    return float(np.tanh(level + reach)), "tail"
