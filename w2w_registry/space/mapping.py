"""From one weight space to another of the same layout: coordinates, when the LoRAs themselves are not at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.layout import differences

Array = NDArray[np.float64]
_BLOCK = 1 << 21
_ROWS = 128


@dataclass(frozen=True, eq=False)
class Mapping:
    """c' = M c + m, with what the new space cannot represent of the old points.

    ``matrix`` (k', k), ``offset`` (k',); ``square`` (k, k), ``cross`` (k,) and ``constant`` give ‖z'‖² of a point,
    z' = (θ − μ')/σ': cᵀ S c + 2 cᵀ x + r.
    """

    matrix: Array
    offset: Array
    square: Array
    cross: Array
    constant: float

    def points(self, coordinates: ArrayLike) -> tuple[NDArray[np.float32], Array]:
        """Coordinates (n, k') float32 of old ones (n, k), and the loss of each (n,): ‖z' − V'c'‖ / ‖z'‖."""
        c = np.atleast_2d(np.asarray(coordinates, np.float64))
        mapped = c @ self.matrix.T + self.offset
        whole = np.einsum("nk,nk->n", c @ self.square, c) + 2 * c @ self.cross + self.constant
        rest = np.maximum(whole - np.einsum("nk,nk->n", mapped, mapped), 0.0)
        loss = np.sqrt(np.divide(rest, whole, out=np.zeros_like(whole), where=whole > 0))
        return mapped.astype(np.float32), loss


def mapping(old: WeightSpace, new: WeightSpace) -> Mapping | None:
    """The map between two spaces, read once in blocks; None when their gauges differ, so that there is no linear one.

    Raises:
        UsageError: the spaces differ in layout.
    """
    _check(old, new)
    if not _same_start(old, new):
        return None
    matrix, offset = np.zeros((new.k, old.k)), np.zeros(new.k)
    square, cross, constant = np.zeros((old.k, old.k)), np.zeros(old.k), 0.0
    step = max(1, _BLOCK // (old.k + new.k))
    for first in range(0, old.dim, step):
        rows = slice(first, first + step)
        inverse = _inverse(new.std[rows])
        ours = np.asarray(old.components[rows], np.float64) * (old.std[rows].astype(np.float64) * inverse)[:, None]
        gap = (old.mean[rows].astype(np.float64) - new.mean[rows]) * inverse
        theirs = np.asarray(new.components[rows], np.float64)
        matrix += theirs.T @ ours
        offset += theirs.T @ gap
        square += ours.T @ ours
        cross += ours.T @ gap
        constant += float(gap @ gap)
    return Mapping(matrix, offset, square, cross, constant)


def moved(old: WeightSpace, new: WeightSpace, coordinates: ArrayLike) -> tuple[NDArray[np.float32], Array]:
    """As :meth:`Mapping.points`, point by point, for spaces of different gauges: each is written out and read again."""
    _check(old, new)
    points = np.atleast_2d(np.asarray(coordinates, np.float32))
    found, losses = [], []
    for first in range(0, len(points), _ROWS):
        theta = new.in_gauge(old.reconstruct(points[first : first + _ROWS]))
        found.append(new.project(theta))
        losses.append(new.residual(theta, found[-1]))
    return np.concatenate(found), np.concatenate(losses)


def _check(old: WeightSpace, new: WeightSpace) -> None:
    found = differences(new.layout, old.layout)
    if found:
        raise UsageError(reason=f"the two spaces hold different LoRAs: {found[0]}")


def _same_start(old: WeightSpace, new: WeightSpace) -> bool:
    if old.start is None or new.start is None:
        return old.start is new.start
    return np.array_equal(old.start, new.start)


def _inverse(std: NDArray[Any]) -> Array:
    wide = std.astype(np.float64)
    return np.divide(1.0, wide, out=np.zeros_like(wide), where=wide != 0)
