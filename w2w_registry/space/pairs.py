"""All pairs of near vectors: near-duplicates among many, without all their products.

    ⟨x, y⟩ = ⟨head x, head y⟩ + ⟨tail x, tail y⟩ ≤ ⟨head x, head y⟩ + ‖tail x‖ ‖tail y‖        (Cauchy–Schwarz)

The components that carry most come first. A tile's products of heads, with the tail's norm as one more component, say
which pairs can reach the threshold at all; only these are computed in full. How many components the head has is chosen
by trial on a few of the rows. Nothing is missed, whatever the vectors; what is saved depends on them: near a threshold
of .9 a tenth to a quarter of the components is enough, at .4 most of them are needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

TILE = 2048
"""Rows a side of a tile: its products take 16 MB."""
_TRIED = 1024  # rows that the head is chosen on
_GATHER = 40  # a product of two rows fetched one by one, in components of a tile's products
_MANY = 0.05  # of a tile's pairs: from here on it is cheaper to compute the tile in full
_UNIT = 2.0**-24  # rounding unit of float32


class Pairs(NamedTuple):
    """Rows ``one`` < ``other`` (p,) and their inner product ``score`` (p,) float64, by ``one``, then ``other``."""

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    score: NDArray[np.float64]


def near_pairs(units: Vectors, threshold: float, *, components: int | None = None, tile: int = TILE) -> Pairs:
    """Every pair of rows of ``units`` (n, d; float32, norm at most about one) whose inner product is ``threshold`` or
    more, computed in float64.

    Args:
        components: of the head; None chooses. It changes the time alone.
    """
    count, width = units.shape
    order = np.argsort(-np.einsum("nd,nd->d", units, units, dtype=np.float64), kind="stable")
    m = _chosen(units, order, threshold) if components is None else min(components, width)
    heads = np.empty((count, m + 1 if m < width else m), np.float32)
    heads[:, :m] = units[:, order[:m]]
    if m < width:
        tails = np.einsum("nd,nd->n", units, units, dtype=np.float64)
        tails -= np.einsum("nd,nd->n", heads[:, :m], heads[:, :m], dtype=np.float64)
        heads[:, m] = np.sqrt(np.maximum(tails, 0.0)) * (1 + 4 * _UNIT)
    least = np.float32(threshold - _slack(heads.shape[1]))
    room = np.empty(min(tile, count) ** 2, np.float32), np.empty(min(tile, count) ** 2, bool)
    found: list[Pairs] = []
    for i in range(0, count, tile):
        for j in range(i, count, tile):
            shape = min(tile, count - i), min(tile, count - j)
            at = _reaching(heads[i : i + tile], heads[j : j + tile], least, *room)
            if m < width and len(at) > _MANY * shape[0] * shape[1]:
                surer = np.float32(threshold - _slack(width))
                at = _reaching(units[i : i + tile], units[j : j + tile], surer, *room)
            if len(at):
                one, other = np.divmod(at, shape[1])
                found.append(_exact(units, one + i, other + j, threshold))
    one, other, score = (np.concatenate(parts) for parts in zip(*found, strict=True)) if found else Pairs(*_NONE)
    by_row = np.lexsort((other, one))
    return Pairs(one[by_row], other[by_row], score[by_row])


def _reaching(
    a: Vectors, b: Vectors, least: np.float32, products: Vectors, mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Places in the table (p, q) of products of a (p, d) and b (q, d) that hold ``least`` or more. ``products`` and
    ``mask``: room for it, used again for every tile, since fresh memory costs as much as a small product."""
    size = len(a) * len(b)
    np.matmul(a, b.T, out=products[:size].reshape(len(a), len(b)))
    np.greater_equal(products[:size], least, out=mask[:size])
    return np.flatnonzero(mask[:size]) if mask[:size].any() else _NONE[0]


_NONE = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)


def _slack(width: int) -> float:
    """More than a float32 product of two unit vectors can be off (Higham, Accuracy and Stability, §3.1)."""
    return 2 * (width + 2) * _UNIT


def _exact(units: Vectors, one: NDArray[np.int64], other: NDArray[np.int64], threshold: float) -> Pairs:
    above = one < other
    one, other = one[above], other[above]
    score = np.empty(len(one))
    step = max(1, (1 << 22) // units.shape[1])
    for start in range(0, len(one), step):
        part = slice(start, start + step)
        score[part] = np.einsum("pd,pd->p", units[one[part]], units[other[part]], dtype=np.float64)
    kept = score >= threshold
    return Pairs(one[kept], other[kept], score[kept])


def _chosen(units: Vectors, order: NDArray[np.intp], threshold: float) -> int:
    """The size of a head whose products, and the full products they leave, cost least on some of the rows."""
    count, width = units.shape
    some = units[np.unique(np.linspace(0, count - 1, min(count, _TRIED)).astype(np.int64))][:, order]
    square = np.cumsum(some.astype(np.float64) ** 2, axis=1)
    best: int = width
    cost = float(width)
    pairs = len(some) * (len(some) - 1)
    for m in dict.fromkeys(int(share * width) for share in (0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)):
        if not 8 <= m < width or not pairs:
            continue
        tails = np.sqrt(np.maximum(square[:, -1] - square[:, m - 1], 0.0))
        bounds = some[:, :m] @ some[:, :m].T + np.outer(tails, tails)
        left = float(np.count_nonzero(bounds >= threshold) - len(some)) / pairs
        full = m + left * width * _GATHER if left <= _MANY else m + width
        if full < cost:
            best, cost = m, full
    return best
