"""The arithmetic all kinds share: checks, the one definition of a score, ordering, rounding bounds."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import IntegrityError
from w2w_registry.index.protocol import Batch, Ids, Vectors

MAX_NORM = 1.0 + 1e-3
_SCORE_ROWS = 4096
_BLOCK = 16
_UNIT = 2.0**-24  # rounding unit of float32
_TINY = 2.0**-126  # smallest normal float32: what a product loses when it underflows


def as_ids(ids: ArrayLike) -> Ids:
    """``ids`` as a contiguous int64 (n,) array."""
    return np.ascontiguousarray(ids, dtype=np.int64).reshape(-1)


def distinct(ids: ArrayLike) -> Ids:
    """``ids`` ascending, each once. Most come so already, and looking is far cheaper than sorting."""
    keys = as_ids(ids)
    return keys if len(keys) < 2 or bool((keys[1:] > keys[:-1]).all()) else np.unique(keys)


def as_vectors(vectors: ArrayLike, dim: int, *, what: str = "vector") -> Vectors:
    """``vectors`` as contiguous float32 (n, dim); a single vector becomes one row.

    Raises:
        IntegrityError: another width, a value that is not finite, or a norm above one. The caller maps coordinates
            by the metric first; raw coordinates end here rather than in silently wrong neighbours.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim != 2 or array.shape[1] != dim:
        raise IntegrityError(what=what, name="shape", expected=f"(n, {dim})", found=str(array.shape))
    with np.errstate(over="ignore", invalid="ignore"):
        if len(array) == 1 and float(array[0] @ array[0]) <= MAX_NORM**2:  # the usual case, at a third of the cost
            return array
        squares = np.einsum("ij,ij->i", array, array)
        good = squares <= MAX_NORM**2  # False for NaN too
    if not good.all():
        worst = int(np.argmin(good))
        raise IntegrityError(what=what, name=f"row {worst}", expected="finite, norm ≤ 1", found=f"{squares[worst]}²")
    return array


def as_batch(ids: ArrayLike, vectors: ArrayLike, dim: int) -> Batch:
    """Checked rows to add, one per id, ascending; of an id given twice the last row stays."""
    keys, rows = as_ids(ids), as_vectors(np.asarray(vectors, dtype=np.float32).reshape(-1, dim), dim)
    if len(keys) != len(rows):
        raise IntegrityError(what="vector", name="rows", expected=str(len(keys)), found=str(len(rows)))
    if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
        reversed_unique, last = np.unique(keys[::-1], return_index=True)
        return reversed_unique, rows[len(keys) - 1 - last]
    return keys, rows


def score(rows: Vectors, query: Vectors) -> Vectors:
    """Inner products of rows (m, k) with one query (k,), float32 (m,): the score every kind reports.

    float32 products are exact in float64 and each row is summed on its own, so that a row's score does not depend
    on which rows it is scored with; a BLAS product's last bits do.
    """
    wide = query.astype(np.float64)
    if len(rows) <= _SCORE_ROWS:
        return np.asarray((rows * wide).sum(axis=1), np.float32)
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _SCORE_ROWS):
        out[start : start + _SCORE_ROWS] = (rows[start : start + _SCORE_ROWS] * wide).sum(axis=1)
    return out


def score_pairs(rows: Vectors, queries: Vectors, of: NDArray[np.int64]) -> Vectors:
    """The ``score`` of each row (m, k) with the query (q, k) that ``of`` (m,) names, float32 (m,)."""
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _SCORE_ROWS):
        part = slice(start, start + _SCORE_ROWS)
        out[part] = (rows[part] * queries[of[part]].astype(np.float64)).sum(axis=1)
    return out


@cache
def rounding(dim: int) -> np.float32:
    """How far a float32 BLAS inner product of two admitted vectors can lie from their ``score``.

    |fl(x·q) − x·q| ≤ γ_k ‖x‖‖q‖ with γ_k = k·u/(1 − k·u) whatever the order of summation (Higham, Accuracy and
    Stability of Numerical Algorithms, §3.1); a few more units cover the score's own rounding and a bound's arithmetic.
    """
    error = (dim + 8) * _UNIT
    return np.float32(error / (1 - error) * MAX_NORM**2 * 1.01 + (dim + 8) * _TINY)


def kth_largest(values: Vectors, k: int) -> np.float32:
    """The k-th largest of ``values`` (k ≥ 1), or −inf when there are fewer."""
    if len(values) < k:
        return np.float32(-np.inf)
    return np.float32(np.partition(values, len(values) - k)[len(values) - k])


def _reached(values: Vectors, k: int) -> np.float32:
    """A value that at least k of ``values`` reach, the k-th largest or hardly less: of many values only the largest of
    every ``_BLOCK`` are put in order, which takes a fifth of the time."""
    blocks = len(values) // _BLOCK
    if blocks < 16 * k:
        return kth_largest(values, k)
    return kth_largest(values[: blocks * _BLOCK].reshape(_BLOCK, blocks).max(axis=0), k)


def contenders(approximate: Vectors, limit: int, dim: int, errors: Vectors | None = None) -> NDArray[np.int64]:
    """Which rows can be among the ``limit`` best, given float32 products that may be off by ``rounding``, with rows
    that may lie ``errors`` (m,) from what was multiplied."""
    if errors is None:
        return np.flatnonzero(approximate >= _reached(approximate, limit) - 2 * rounding(dim))
    doubts = np.float32(MAX_NORM) * errors
    return np.flatnonzero(approximate + doubts >= _reached(approximate - doubts, limit) - 4 * rounding(dim))


def best(ids: Ids, scores: Vectors, limit: int) -> tuple[Ids, Vectors]:
    """The first ``limit`` by descending score, then ascending id."""
    order = np.lexsort((ids, -scores))[:limit]
    return ids[order], scores[order]


def member(ids: Ids, of: Ids) -> NDArray[np.bool_]:
    """Which of ``ids`` occur in ``of``, which is ascending."""
    if len(of) == 0 or len(ids) == 0:
        return np.zeros(len(ids), bool)
    at = np.minimum(np.searchsorted(of, ids), len(of) - 1)
    return np.asarray(of[at] == ids)
