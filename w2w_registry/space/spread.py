"""How trainings of one person differ: the covariances a likelihood ratio is made of, estimated from few repeats.

A registered fingerprint is x = y + e, a query of the same person q = g·a·y + b + e' with e' ~ N(0, W), a ~ N(1, τ²):
LoRAs trained another way ("foreign") say the same thing louder (g), with an offset (b), more noise (W), and all of
them are more or less pronounced (τ). The two-covariance model of speaker recognition (Brümmer & de Villiers, Odyssey
2010) is the case g = 1, b = 0, τ = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RIDGE: Final = 0.1
"""Of the mean variance, added to every direction of a within-person covariance: what few repeats cannot show is
assumed to be there."""
WEIGHTS: Final = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""How many repeats the covariance's expected form may count for; which, is chosen by likelihood on repeats left out."""
FOLDS: Final = 5


@dataclass(frozen=True, eq=False)
class Training:
    """One way of training, seen from its repeats: ``gain`` g, ``offset`` b (d,), ``within`` W (d, d), ``amplitude`` τ.

    ``count`` is the number of repeats behind it. ``gain`` is one number, or one for each direction (d,). ``apart``: of
    a way that is asked by itself, how near strangers came by it (m,), sorted.
    """

    name: str
    count: int
    gain: float | Array
    offset: Array
    within: Array
    amplitude: float
    apart: Array | None = None

    def to_arrays(self) -> dict[str, Array]:
        one = np.ndim(self.gain) == 0
        arrays = {
            "offset": self.offset,
            "within": self.within,
            "numbers": np.array([self.count, self.gain if one else 1.0, self.amplitude]),
        }
        arrays |= {} if one else {"gain": np.asarray(self.gain)}
        return arrays if self.apart is None else arrays | {"apart": self.apart}

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, Any]) -> Training:
        count, gain, amplitude = (float(v) for v in arrays["numbers"])
        offset, within = (np.asarray(arrays[key], np.float64) for key in ("offset", "within"))
        each, apart = (np.asarray(arrays[k], np.float64) if k in arrays else None for k in ("gain", "apart"))
        return cls(name, int(count), gain if each is None else each, offset, within, amplitude, apart)

    def gained(self, covariance: Array) -> Array:
        """The covariance (d, d) of g·y, of y's."""
        gain = np.broadcast_to(self.gain, len(covariance))
        return np.asarray(gain[:, None] * covariance * gain)


def like_registered(queries: ArrayLike, registered: ArrayLike, total: Array, name: str) -> Training:
    """The training that the registered were made by themselves, from ``queries`` (m, d) and their ``registered`` rows.

    Both sides are as noisy, so W is half the covariance of their difference; g = 1 and b = 0 by construction. Points
    are centred; ``total`` (d, d) is the covariance of the registered, whose spectrum gives W its expected form.
    """
    x, q = np.asarray(registered, np.float64), np.asarray(queries, np.float64)
    across, strayed = _across(q - x, x)
    within = _shrunk(across / np.sqrt(2.0), _diagonal(total))
    return Training(name, len(x), 1.0, np.zeros(x.shape[1]), within, float(np.sqrt(strayed / 2.0)))


def foreign(queries: ArrayLike, registered: ArrayLike, native: Training, name: str) -> Training:
    """Another training, from ``queries`` (m, d) and their ``registered`` rows; its noise is expected to have the
    native noise's principal axes."""
    x, q = np.asarray(registered, np.float64), np.asarray(queries, np.float64)
    gain = float((x * q).sum() / (x * x).sum())
    offset = (q - gain * x).mean(0)
    across, strayed = _across(q - gain * x - offset, gain * x)
    # What the registered side strayed by is in the difference as well, and is no part of the query's own noise.
    whole = _shrunk(across, native.within, ridge=0.0)
    within = _positive(whole - gain**2 * native.within, 1e-3 * float(np.trace(whole)) / len(whole))
    return Training(name, len(x), gain, offset, within, float(np.sqrt(max(strayed - native.amplitude**2, 0.0))))


def between(total: Array, within: Array) -> Array:
    """Covariance (d, d) of people: what the registered vary by, less what trainings of one person vary by."""
    return _positive(total - within, 1e-6 * float(np.trace(total)) / len(total))


def _across(difference: Array, points: Array) -> tuple[Array, float]:
    """Residuals (m, d) less their part along the point itself, and the variance of that part (relative to the point)
    beyond what the rest explains: a louder or fainter training is no other person."""
    size = np.maximum((points**2).sum(1), 1e-30)
    along = (difference * points).sum(1) / size
    across = difference - along[:, None] * points
    if len(points) < 2:
        return difference, 0.0
    # The component along the point is missing: on average one direction of d.
    across = across * np.sqrt(points.shape[1] / max(points.shape[1] - 1, 1))
    explained = ((across @ points.T) ** 2).mean(0) / size**2
    return across, float(max(np.mean(along**2) - np.median(explained), 0.0))


def _shrunk(residuals: Array, form: Array, ridge: float = RIDGE) -> Array:
    """Covariance of ``residuals`` (m, d), drawn towards a smooth one with ``form``'s eigenvectors.

    The smooth one's variances follow a power of ``form``'s. How much it counts is chosen by the likelihood of
    repeats left out, so that ten repeats lean on it and a thousand hardly.
    """
    count, width = residuals.shape
    values, axes = np.linalg.eigh(form)
    values = np.maximum(values, 1e-12 * values.max())

    def smooth(rows: Array) -> Array:
        seen = np.maximum(((rows @ axes) ** 2).mean(0), 1e-12 * float((rows**2).mean()) + 1e-30)
        slope, level = np.polyfit(np.log(values), np.log(seen), 1)
        return np.asarray(
            (axes * np.exp(np.clip(slope, 0.0, 1.5) * np.log(values) + _level(values, seen, slope, level))) @ axes.T
        )

    def mixed(rows: Array, weight: float) -> Array:
        cov = (rows.T @ rows + weight * smooth(rows)) / (len(rows) + weight)
        return np.asarray(cov + ridge * np.trace(cov) / width * np.eye(width))

    if ridge and count >= 2 * width:
        # Enough to be believed, off the axes too: what is between two look-alikes lies where no form expects it.
        return mixed(residuals, 0.0)
    if count < 2 * FOLDS:
        return mixed(residuals, WEIGHTS[-1])
    parts = np.arange(count) % FOLDS
    fits = [
        np.mean([_likelihood(residuals[parts == f], mixed(residuals[parts != f], weight)) for f in range(FOLDS)])
        for weight in WEIGHTS
    ]
    return mixed(residuals, WEIGHTS[int(np.argmax(fits))])


def _level(values: Array, seen: Array, slope: float, level: float) -> float:
    """The intercept that keeps the mean log variance when the slope had to be held within bounds."""
    held = float(np.clip(slope, 0.0, 1.5))
    return float(level) if held == slope else float((np.log(seen) - held * np.log(values)).mean())


def _likelihood(rows: Array, covariance: Array) -> float:
    """Mean Gaussian log-likelihood (less a constant) of ``rows`` (m, d); −inf where the covariance is singular."""
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return -np.inf
    z = np.linalg.solve(root, rows.T)
    return float(-0.5 * (z**2).sum(0).mean() - np.log(np.diag(root)).sum())


def _diagonal(matrix: Array) -> Array:
    return np.diag(np.diag(matrix))


def _positive(matrix: Array, least: float) -> Array:
    """The nearest symmetric matrix whose eigenvalues are at least ``least``."""
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((axes * np.maximum(values, least)) @ axes.T)
