"""Exact search in numpy: the oracle, and the fastest kind from a cold start up to tens of thousands of rows.

Every row that may be returned is read: a float32 product says who can be among the best, given how far such a product
can be off (``vectors.rounding``), and the one definition of a score (``vectors.score``) decides among those. So the
answer is that of scoring every row, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.index.protocol import Batch, Ids, Vectors
from w2w_registry.index.rows import BLOCK_BYTES, SCAN_BYTES, Files, Rows, RowWriter, read_rows, write_rows
from w2w_registry.index.segments import Found, Segment, SegmentedIndex
from w2w_registry.index.vectors import MAX_NORM, best, contenders, rounding, score

KIND = "exact"
GATHER_SHARE = 8  # reading 1/4 of the rows one by one costs more than streaming all, 1/8 less (measured)


class ExactIndex(SegmentedIndex):
    """Never misses a neighbour."""

    kind = KIND

    @classmethod
    def write(cls, folder: Path, dim: int, batches: Iterable[Batch], *, short: bool = False) -> int:
        with closing(RowWriter(folder)) as writer:
            return write_rows(folder, dim, batches, writer.add)

    @classmethod
    def load(cls, folder: Path, files: Files, dim: int, *, unchecked: bool) -> Segment:
        return Segment(read_rows(files, dim, unchecked=unchecked))

    def _search_segment(
        self,
        segment: Segment,
        queries: Vectors,
        limit: int,
        rows: NDArray[np.int64] | None,
        *,
        exact: bool,
        fast: bool,
    ) -> Found:
        found: Found = []
        for part, approximate in _products(segment.rows, queries, rows):
            for query, scores in zip(part, approximate, strict=True):
                near = contenders(scores, limit, self._dim, errors_of(segment.rows, rows))
                found.append(decide(segment.rows, query, near if rows is None else rows[near], limit))
        return found

    def _segment_above(
        self,
        segment: Segment,
        queries: Vectors,
        threshold: np.float32,
        rows: NDArray[np.int64] | None,
        limit: int | None,
    ) -> Found:
        found: Found = []
        least: Any = threshold - 2 * rounding(self._dim)
        errors = errors_of(segment.rows, rows)
        if errors is not None:
            least = least - MAX_NORM * errors
        for part, approximate in _products(segment.rows, queries, rows):
            for query, scores in zip(part, approximate, strict=True):
                near = np.flatnonzero(scores >= least)
                found.append(reaching(segment.rows, query, near if rows is None else rows[near], threshold))
        return found


def _products(rows: Rows, queries: Vectors, chosen: NDArray[np.int64] | None) -> Iterable[tuple[Vectors, Vectors]]:
    """For as many queries at a time as memory allows: the queries, and their float32 products with every row that was
    chosen (None = all), (q, m)."""
    step = max(1, SCAN_BYTES // (4 * len(rows)))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        if chosen is not None and len(chosen) * GATHER_SHARE <= len(rows):
            yield part, products(rows, chosen, part)
            continue
        approximate = np.empty((len(part), len(rows)), np.float32)
        for first, found in rows.scan(part):
            approximate[:, first : first + found.shape[1]] = found
        yield part, approximate if chosen is None else approximate[:, chosen]


def products(rows: Rows, chosen: NDArray[np.int64], queries: Vectors) -> Vectors:
    """float32 products (q, m) of queries (q, k) with what is stored of chosen rows, read one by one."""
    step = max(1, BLOCK_BYTES // (4 * rows.dim))
    parts = [rows.products(queries, chosen[start : start + step]) for start in range(0, len(chosen), step)]
    return np.concatenate(parts, axis=1) if parts else np.empty((len(queries), 0), np.float32)


def errors_of(rows: Rows, chosen: NDArray[np.int64] | None) -> Vectors | None:
    """How far what is stored of chosen rows (None = all) is from them, (m,); None where it is the rows themselves."""
    return rows.errors if rows.errors is None or chosen is None else rows.errors[chosen]


def decide(rows: Rows, query: Vectors, chosen: NDArray[np.int64], limit: int) -> tuple[Ids, Vectors]:
    """The best of those rows by score. They may be all there are: a query at the centre ties with every row."""
    return best(rows.ids[chosen], scores_of(rows, query, chosen), limit)


def reaching(rows: Rows, query: Vectors, chosen: NDArray[np.int64], threshold: np.float32) -> tuple[Ids, Vectors]:
    """Those of the chosen rows that score ``threshold`` or more."""
    scores = scores_of(rows, query, chosen)
    enough = scores >= threshold
    return rows.ids[chosen[enough]], scores[enough]


def scores_of(rows: Rows, query: Vectors, chosen: NDArray[np.int64]) -> Vectors:
    """The scores of chosen rows (m,), read in blocks."""
    step = max(1, BLOCK_BYTES // (4 * rows.dim))
    if len(chosen) <= step:
        return score(rows.take(chosen), query)
    parts = [score(rows.take(chosen[start : start + step]), query) for start in range(0, len(chosen), step)]
    return np.concatenate([np.empty(0, np.float32), *parts])
