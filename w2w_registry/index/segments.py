"""The index that is made of segments: immutable ones on disk and a tail in memory.

A segment is written once and read in place. A change never touches it: a removed or replaced row is marked dead, new
rows go to the tail, and the next save writes the tail as a segment of its own, together with the small ones before it.
So a save costs what changed, a row is rewritten a few times in its life, and a cold process reads what its query needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.index.protocol import Batch, Ids, Vectors
from w2w_registry.index.rows import SCAN_BYTES, Files, Rows, Source, Tail
from w2w_registry.index.vectors import as_batch, as_vectors, best, contenders, distinct, member, rounding, score

Found = list[tuple[Ids, Vectors]]


class Segment:
    """Immutable rows, which of them are dead (bool (n,)), and the name under which a store keeps them ("" for none)."""

    def __init__(self, rows: Rows, name: str = "", dead: NDArray[np.bool_] | None = None) -> None:
        self.rows, self.name = rows, name
        self.dead = np.zeros(len(rows), bool) if dead is None else dead

    def copy(self) -> Self:
        """The same rows, of which others may be marked dead."""
        found = copy(self)
        found.dead, found.rows = self.dead.copy(), copy(self.rows)  # each copy with a source of its own
        return found

    @property
    def live(self) -> int:
        return len(self.rows) - int(self.dead.sum())

    def eligible(self, allow: Ids | None, forbid: Ids | None) -> NDArray[np.int64] | None:
        """Row numbers that may be returned, ascending; None = all of them."""
        if allow is not None:
            rows = self.rows.find(allow)
            if self.dead.any():
                rows = rows[~self.dead[rows]]
            return rows if forbid is None else np.asarray(rows[~member(self.rows.ids[rows], forbid)])
        dropped = self.dead
        if forbid is not None and len(forbid):
            dropped = dropped.copy()
            dropped[self.rows.find(forbid)] = True
        return np.flatnonzero(~dropped) if dropped.any() else None


class SegmentedIndex(ABC):
    """Segments and a tail. Kinds differ in what they write beside the rows and in how they search a segment."""

    kind: ClassVar[str]

    def __init__(self, dim: int, segments: Sequence[Any] = ()) -> None:
        self._dim = dim
        self.segments: list[Any] = list(segments)
        self.tail = Tail(dim)
        self._changed = 0

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def size(self) -> int:
        return sum((int(segment.live) for segment in self.segments), len(self.tail))

    @property
    def pending(self) -> int:
        """Rows added, replaced or removed since the index was read: what a save would write."""
        return self._changed + len(self.tail)

    @property
    def exhaustive(self) -> bool:
        """Whether ``search`` looks at every row, so that it never misses one."""
        return True

    def read_from(self, source: Source | None) -> None:
        """Where rows that are stored short are to be read as they are, from here on."""
        for segment in self.segments:
            segment.rows.source = source

    def ids(self) -> Ids:
        parts = [segment.rows.ids[~segment.dead] for segment in self.segments]
        return np.sort(np.concatenate([*parts, self.tail.ids]))

    def copy(self) -> Self:
        """An index of its own over the same segments: what is added to it or removed does not change this one."""
        found = copy(self)
        found.segments = [segment.copy() for segment in self.segments]
        found.tail = self.tail.copy()
        return found

    def add(self, ids: ArrayLike, vectors: ArrayLike) -> None:
        keys, rows = as_batch(ids, vectors, self._dim)
        self._kill(keys)
        self.tail.put(keys, rows)

    def remove(self, ids: ArrayLike) -> int:
        keys = distinct(ids)
        return self._kill(keys) + self.tail.drop(keys)

    def _kill(self, keys: Ids) -> int:
        killed = 0
        for segment in self.segments:
            rows = segment.rows.find(keys)
            fresh = rows[~segment.dead[rows]]
            segment.dead[fresh] = True
            killed += len(fresh)
        self._changed += killed
        return killed

    def search(
        self,
        queries: ArrayLike,
        limit: int,
        *,
        allowed: ArrayLike | None = None,
        forbidden: ArrayLike | None = None,
        exact: bool = False,
        fast: bool = False,
    ) -> tuple[Ids, Vectors]:
        asked = as_vectors(queries, self._dim, what="query")
        parts, tail_rows = self._eligible(allowed, forbidden)
        found = sum(len(s.rows) if rows is None else len(rows) for s, rows in parts) + len(tail_rows)
        width = max(0, min(limit, found))
        ids = np.empty((len(asked), width), np.int64)
        scores = np.empty((len(asked), width), np.float32)
        if width == 0 or len(asked) == 0:
            return ids, scores
        answers = [self._search_segment(segment, asked, width, rows, exact=exact, fast=fast) for segment, rows in parts]
        if len(tail_rows):
            answers.append(search_rows(self.tail.ids, self.tail.vectors, asked, width, tail_rows))
        for i, several in enumerate(zip(*answers, strict=True)):
            joined = np.concatenate([one[0] for one in several]), np.concatenate([one[1] for one in several])
            ids[i], scores[i] = joined if len(several) == 1 else best(*joined, width)
        return ids, scores

    def above(
        self,
        queries: ArrayLike,
        threshold: float,
        *,
        limit: int | None = None,
        allowed: ArrayLike | None = None,
        forbidden: ArrayLike | None = None,
    ) -> Found:
        asked = as_vectors(queries, self._dim, what="query")
        parts, tail_rows = self._eligible(allowed, forbidden)
        least = np.float32(threshold)
        answers = [self._segment_above(segment, asked, least, rows, limit) for segment, rows in parts]
        answers.append(rows_above(self.tail.ids, self.tail.vectors, asked, least, tail_rows))
        return [
            best(
                np.concatenate([a for a, _ in several]),
                np.concatenate([b for _, b in several]),
                self.size if limit is None else limit,
            )
            for several in zip(*answers, strict=True)
        ]

    def batches(self, rows: int = 4096) -> Iterator[Batch]:
        return merged(self.segments, self.tail, self._dim, rows)

    def _eligible(
        self, allowed: ArrayLike | None, forbidden: ArrayLike | None
    ) -> tuple[list[tuple[Any, NDArray[np.int64] | None]], NDArray[np.int64]]:
        """Every segment that has rows to return, with their numbers, and those of the tail."""
        if allowed is None and forbidden is None:
            rows_of = ((segment, segment.eligible(None, None)) for segment in self.segments)
            return [(s, rows) for s, rows in rows_of if rows is None or len(rows)], np.arange(len(self.tail))
        allow = None if allowed is None else distinct(allowed)
        forbid = None if forbidden is None else distinct(forbidden)
        parts = [(segment, segment.eligible(allow, forbid)) for segment in self.segments]
        parts = [(segment, rows) for segment, rows in parts if (len(segment.rows) if rows is None else len(rows))]
        return parts, _eligible(self.tail.ids, allow, forbid)

    @classmethod
    @abstractmethod
    def write(cls, folder: Path, dim: int, batches: Iterable[Batch], *, short: bool = False) -> int:
        """Write into an empty folder all that ``load`` makes a segment of those rows from; returns their number.

        Rows come in ascending id order and one batch is in memory at a time. ``short``: a kind that can do with less
        than the rows themselves may leave them out, as whoever reads the segment has a source of them.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, files: Files, dim: int, *, unchecked: bool) -> Segment:
        """The segment ``write`` wrote, over its mapped files; rows are verified as they are read when ``unchecked``.

        Raises:
            IntegrityError: the files do not fit together.
        """

    @abstractmethod
    def _search_segment(
        self,
        segment: Any,
        queries: Vectors,
        limit: int,
        rows: NDArray[np.int64] | None,
        *,
        exact: bool,
        fast: bool,
    ) -> Found:
        """For each query the best of those rows (None = all), at most ``limit``, in order, with their scores."""

    @abstractmethod
    def _segment_above(
        self,
        segment: Any,
        queries: Vectors,
        threshold: np.float32,
        rows: NDArray[np.int64] | None,
        limit: int | None,
    ) -> Found:
        """For each query every one of those rows that scores ``threshold`` or more, or at least the best ``limit``."""


def merged(segments: Sequence[Segment], tail: Tail, dim: int, rows: int = 4096) -> Iterator[Batch]:
    """The live rows of those segments and of the tail by ascending id, at most ``rows`` at a time. A short row that its
    source does not have any more has left the catalog since, and is left out."""
    live = [np.flatnonzero(~segment.dead) for segment in segments]
    keys = np.concatenate([*(s.rows.ids[at] for s, at in zip(segments, live, strict=True)), tail.ids])
    sources = np.concatenate([np.full(len(at), i) for i, at in enumerate([*live, tail.ids])])
    places = np.concatenate([*live, np.arange(len(tail))]).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        vectors, there = np.empty((len(part), dim), np.float32), np.ones(len(part), bool)
        for source in np.unique(sources[part]).tolist():
            here = sources[part] == source
            at = places[part[here]]
            if source == len(segments):
                vectors[here] = tail.vectors[at]
            else:
                there[here], vectors[here] = segments[source].rows.there(at)
        yield keys[part][there], vectors[there]


def _eligible(ids: Ids, allow: Ids | None, forbid: Ids | None) -> NDArray[np.int64]:
    keep = np.ones(len(ids), bool) if allow is None else member(ids, allow)
    if forbid is not None:
        keep &= ~member(ids, forbid)
    return np.flatnonzero(keep)


def search_rows(ids: Ids, vectors: Vectors, queries: Vectors, limit: int, rows: NDArray[np.int64]) -> Found:
    """Exact search of rows in memory: a float32 product finds who can be among the best, ``score`` decides."""
    names, subset = _chosen(ids, vectors, rows)
    out = []
    for query, scores in _products(queries, subset):
        near = contenders(scores, limit, len(query))
        out.append(best(names[near], score(subset[near], query), limit))
    return out


def rows_above(ids: Ids, vectors: Vectors, queries: Vectors, threshold: np.float32, rows: NDArray[np.int64]) -> Found:
    """Rows in memory that score ``threshold`` or more, by every query."""
    names, subset = _chosen(ids, vectors, rows)
    out = []
    for query, products in _products(queries, subset):
        at = np.flatnonzero(products >= threshold - 2 * rounding(vectors.shape[1]))
        scores = score(subset[at], query)
        out.append((names[at][scores >= threshold], scores[scores >= threshold]))
    return out


def _chosen(ids: Ids, vectors: Vectors, rows: NDArray[np.int64]) -> tuple[Ids, Vectors]:
    return (ids, vectors) if len(rows) == len(vectors) else (ids[rows], vectors[rows])


def _products(queries: Vectors, rows: Vectors) -> Iterator[tuple[Vectors, Vectors]]:
    """Each query with its float32 products, computed for as many queries at once as there is room for."""
    step = max(1, SCAN_BYTES // (4 * max(1, len(rows))))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        yield from zip(part, part @ rows.T, strict=True)
