"""Exact search in numpy: the oracle, and the fastest kind from a cold start (see ``factory``).

Coordinates are sorted by variance, so most of an inner product lies in a prefix of the components. With x = (x₁, x₂)
and q = (q₁, q₂) split after p components, Cauchy–Schwarz on the remainder gives

    ⟨x, q⟩ ≤ ⟨x₁, q₁⟩ + ‖x₂‖·‖q₂‖

so a row whose bound lies below the limit-th best score known cannot be among the best. Only the prefixes (stored
apart, contiguous) and the surviving rows are read. Rounding is bounded too (``vectors.rounding``), so the answer is
that of scoring every row, bit for bit; where the bound prunes little, every row is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError
from w2w_registry.index.protocol import Batch, Ids, Vectors
from w2w_registry.index.rows import BLOCK_BYTES, SCAN_BYTES, Files, Rows, SegmentedIndex, read_rows, write_rows, written
from w2w_registry.index.vectors import best, contenders, kth_largest, rounding, score

KIND = "exact"
MIN_PREFIX_ROWS = 4096  # a scan of so many rows of 1,000 components takes a third of a millisecond (measured)
GATHER_SHARE = 8  # reading 1/4 of the rows one by one costs more than streaming all, 1/8 less (measured)
SEEDS = 64
FEW_QUERIES = 4
PREFIX_ENERGY = 0.8


class Prefix:
    """The first ``p`` components of every base row, float32 (n, p), and the norm of the rest, rounded up, (n,)."""

    def __init__(self, heads: Vectors, rests: Vectors) -> None:
        self.heads, self.rests = heads, rests

    @property
    def width(self) -> int:
        return int(self.heads.shape[1])


class ExactIndex(SegmentedIndex):
    """Never misses a neighbour."""

    kind = KIND

    def __init__(self, dim: int, base: Rows | None = None, prefix: Prefix | None = None) -> None:
        super().__init__(dim, base)
        self._prefix = prefix

    @classmethod
    def write(cls, folder: Path, dim: int, batches: Iterable[Batch]) -> int:
        count, energy = write_rows(folder, dim, batches)
        write_prefix(folder, dim, prefix_width(energy, count))
        return count

    @classmethod
    def load(cls, folder: Path, files: Files, dim: int, *, unchecked: bool) -> Self:
        base = read_rows(files, dim, unchecked=unchecked)
        return cls(dim, base, read_prefix(files, len(base)))

    def _search_base(self, queries: Vectors, limit: int, rows: NDArray[np.int64] | None) -> list[tuple[Ids, Vectors]]:
        count = len(self._base) if rows is None else len(rows)
        if count == 0:
            return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        found: list[tuple[Ids, Vectors]] = []
        step = max(1, SCAN_BYTES // (4 * len(self._base)))
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            filtered = self._filtered(part, limit, rows) if self._filters(count, len(part)) else [None] * len(part)
            left = np.array([result is None for result in filtered])
            scanned = iter(self._scanned(part[left], limit, rows))
            found += [next(scanned) if result is None else result for result in filtered]
        return found

    def _filters(self, count: int, queries: int) -> bool:
        """Whether to go through the prefix: not for few rows, nor for many queries that a wide prefix hardly shortens,
        since one matrix product scans for all of them at once."""
        if self._prefix is None or count * GATHER_SHARE <= len(self._base):
            return False
        return queries <= FEW_QUERIES or self._prefix.width * GATHER_SHARE <= self._dim

    def _filtered(
        self, queries: Vectors, limit: int, rows: NDArray[np.int64] | None
    ) -> list[tuple[Ids, Vectors] | None]:
        """Through the prefix; None for a query that it prunes too little for."""
        assert self._prefix is not None
        width = self._prefix.width
        heads = self._prefix.heads @ np.ascontiguousarray(queries[:, :width].T)
        return [self._filter_one(query, heads[:, i], limit, rows) for i, query in enumerate(queries)]

    def _filter_one(
        self, query: Vectors, heads: Vectors, limit: int, rows: NDArray[np.int64] | None
    ) -> tuple[Ids, Vectors] | None:
        assert self._prefix is not None
        slack = rounding(self._dim)
        rests = self._prefix.rests
        if rows is not None:
            heads, rests = heads[rows], rests[rows]
        bound = heads + rests * _norm_up(query[self._prefix.width :]) + slack
        seeds = min(len(bound), max(SEEDS, 4 * limit))
        first = np.argpartition(heads, len(heads) - seeds)[len(heads) - seeds :]
        known = self._products(first if rows is None else rows[first], query)
        floor = kth_largest(known, limit) - 2 * slack
        alive = np.flatnonzero(bound >= floor)
        if len(alive) * GATHER_SHARE > len(self._base):
            return None
        if rows is not None:
            alive = rows[alive]
        near = contenders(self._products(alive, query), limit, self._dim)
        return self._decide(query, alive[near], limit)

    def _products(self, rows: NDArray[np.int64], queries: Vectors) -> Vectors:
        """float32 products of base rows, read one by one, with one query (k,) or several (q, k)."""
        step = max(1, BLOCK_BYTES // (4 * self._dim))
        parts = [self._base.take(rows[start : start + step]) @ queries.T for start in range(0, len(rows), step)]
        return np.concatenate(parts) if parts else np.empty((0, *queries.shape[:-1]), np.float32)

    def _decide(self, query: Vectors, rows: NDArray[np.int64], limit: int) -> tuple[Ids, Vectors]:
        """The best of those base rows by score. They may be all of them: a query at the centre ties with every row."""
        step = max(1, BLOCK_BYTES // (4 * self._dim))
        parts = [score(self._base.take(rows[start : start + step]), query) for start in range(0, len(rows), step)]
        return best(self._base.ids[rows], np.concatenate([np.empty(0, np.float32), *parts]), limit)

    def _scanned(self, queries: Vectors, limit: int, rows: NDArray[np.int64] | None) -> list[tuple[Ids, Vectors]]:
        """By reading every row that may be returned."""
        if len(queries) == 0:
            return []
        if rows is not None and len(rows) * GATHER_SHARE <= len(self._base):
            approximate = self._products(rows, queries)
        else:
            approximate = np.empty((len(self._base), len(queries)), np.float32)
            for start, block in self._base.blocks():
                np.matmul(block, queries.T, out=approximate[start : start + len(block)])
            if rows is not None:
                approximate = approximate[rows]
        out = []
        for i, query in enumerate(queries):
            near = contenders(approximate[:, i], limit, self._dim)
            chosen = near if rows is None else rows[near]
            out.append(self._decide(query, chosen, limit))
        return out


def _norm_up(vector: Vectors) -> np.float32:
    """Euclidean norm, rounded up to float32."""
    return np.float32(np.nextafter(np.float32(np.sqrt(np.square(vector, dtype=np.float64).sum())), np.float32(np.inf)))


def prefix_width(energy: NDArray[np.float64], count: int) -> int:
    """How many leading components to filter by, 0 for none, from the mean square of each component.

    The bound exceeds the truth by about the energy of the rest, so the prefix has to hold most of it and still be
    much shorter than the whole row.
    """
    dim = len(energy)
    if count < MIN_PREFIX_ROWS or not energy.any():
        return 0
    width = leading(energy)
    return width if width * 2 <= dim else 0


def leading(energy: NDArray[np.float64]) -> int:
    """How many leading components hold ``PREFIX_ENERGY`` of the energy, in whole vector registers."""
    width = int(np.searchsorted(np.cumsum(energy), PREFIX_ENERGY * energy.sum())) + 1
    return min(-(-width // 16) * 16, len(energy))


def write_prefix(folder: Path, dim: int, width: int) -> None:
    """Write ``heads.f32`` and ``rests.f32`` for the rows in ``vectors.f32``; two empty files for width 0."""
    with open(folder / "heads.f32", "wb") as head_file, open(folder / "rests.f32", "wb") as rest_file:
        if width == 0:
            return
        vectors = written(folder, dim)
        step = max(1, BLOCK_BYTES // (4 * dim))
        for start in range(0, len(vectors), step):
            block = vectors[start : start + step]
            head_file.write(np.ascontiguousarray(block[:, :width]).tobytes())
            norms = np.sqrt(np.square(block[:, width:], dtype=np.float64).sum(axis=1))
            rest_file.write(np.nextafter(norms.astype("<f4"), np.float32(np.inf)).tobytes())


def read_prefix(files: Files, count: int) -> Prefix | None:
    """The prefix ``write_prefix`` wrote for ``count`` rows. Raises IntegrityError when it does not fit them."""
    heads = files["heads.f32"].view("<f4").astype(np.float32, copy=False)
    rests = files["rests.f32"].view("<f4").astype(np.float32, copy=False)
    if len(heads) == 0:
        return None
    if len(rests) != count or count == 0 or len(heads) % count:
        raise IntegrityError(what="index prefix", name="files", expected=f"{count} rows", found=str(len(rests)))
    return Prefix(heads.reshape(count, -1), rests)
