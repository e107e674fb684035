"""Was a LoRA trained, or made of others? How much of it lies where, held against trainings outside the fit.

A training that a space was not fitted on lies partly outside it, and inside it each part has about the energy that
other people's have. Noise spread over a space's components puts too much into the last of them; a mixture keeps the
direction of its parts but averages what each was alone in, so it has too little there and outside; noise on the
factors themselves lies outside. So three numbers tell (``energies``): the mean energy of the first components and of
the others, each in units of what the fit's own LoRAs have there, and the energy outside, all as logarithms.

What is ordinary is seen on members left out of folds of the fit (``space.crossfit``). A LoRA that is not trained as
they were (longer, at another rate) is as unusual as a made one: that alone says nothing of whom it draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FIRST: Final = 8
"""One in so many components is among the first, in which trainings differ by person more than by chance."""
UNUSUAL: Final = 0.05
"""So many of a hundred trainings outside the fit are called unusual."""
_LEAST: Final = 7.815
"""The .95 quantile of χ² with three degrees of freedom: what ``UNUSUAL`` is among many."""
_GROWN: Final = 1.25
_NOTHING: Final = 1e-12
_REACHED: Final = 1e-4
"""A space that leaves less than this share of a LoRA leaves nothing: what is there is rounding."""


def energies(coordinates: ArrayLike, std: ArrayLike, outside: ArrayLike) -> Array:
    """Three logarithms (n, 3) for LoRAs at ``coordinates`` (n, k) of a space.

    Args:
        std: of its fit set's coordinates (k,). outside: ‖z‖² of what the space does not reach (n,).
    """
    points = np.atleast_2d(np.asarray(coordinates, np.float64))
    share = (points / np.asarray(std, np.float64)) ** 2
    first = max(1, share.shape[1] // FIRST)
    rest = share[:, first:] if first < share.shape[1] else share
    outside = np.maximum(np.asarray(outside, np.float64), _REACHED * (points**2).sum(1))
    parts = np.stack([share[:, :first].mean(1), rest.mean(1), outside], axis=1)
    return np.asarray(np.log(np.maximum(parts, _NOTHING)))


@dataclass(frozen=True, eq=False)
class Ordinary:
    """What trainings outside a fit of ``size`` have for energies: their ``mean`` (3,) and ``precision`` (3, 3), and the
    squared distance from which on one is unusual."""

    size: int
    mean: Array
    precision: Array
    limit: float

    def unusual(self, found: ArrayLike) -> NDArray[np.bool_]:
        """Which of these energies (n, 3) are not a training's like the fit's."""
        gap = np.asarray(found, np.float64) - self.mean
        return np.asarray(((gap @ self.precision) * gap).sum(1) > self.limit)

    def holds_for(self, fitted: int) -> bool:
        """Whether a space that has grown to ``fitted`` members since is still about the one it was learned on."""
        return fitted <= _GROWN * self.size

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "size": self.size,
            "mean": self.mean.tolist(),
            "precision": self.precision.tolist(),
            "limit": self.limit,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Ordinary:
        mean, precision = (np.asarray(document[key], np.float64) for key in ("mean", "precision"))
        return cls(int(document["size"]), mean, precision, float(document["limit"]))


def ordinary(halves: Array, quarters: Array) -> Ordinary:
    """From the energies (n, 3) of a fit's members left out with half of the others, and with a quarter of them.

    The larger the fit, the more of a stranger it reaches: the mean goes on as it went from a half to three quarters, in
    proportion to the logarithm of the fit's size.
    """
    step = np.log(4 / 3) / np.log(3 / 2)
    mean = quarters.mean(0) + step * (quarters.mean(0) - halves.mean(0))
    spread = np.cov(quarters.T)
    precision = np.linalg.inv(spread + 1e-6 * np.trace(spread) * np.eye(len(spread)))
    gap = quarters - quarters.mean(0)
    limit = float(np.quantile(((gap @ precision) * gap).sum(1), 1 - UNUSUAL))
    return Ordinary(len(quarters), mean, precision, max(limit, _LEAST))
