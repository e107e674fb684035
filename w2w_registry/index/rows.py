"""Rows of vectors: an immutable, memory-mapped base, a growing tail in memory, and the index made of both.

The base is written once and read in place. A change never touches it: a removed or replaced base row is marked dead,
new rows go to the tail, and the next save writes one new base. So a cold process reads only what its query needs.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import IntegrityError
from w2w_registry.index.protocol import Batch, Ids, Vectors
from w2w_registry.index.vectors import as_batch, as_ids, as_vectors, best, contenders, member, score

BLOCK_BYTES = 1 << 23  # rows are scanned in blocks of about this size
SCAN_BYTES = 1 << 26  # approximate scores held at once: rows × queries × 4 bytes
Files = Mapping[str, NDArray[np.uint8]]


class Rows:
    """Immutable rows in ascending id order, with the checksum of each (``sums``, CRC-32 of its bytes).

    ``unchecked`` rows came from a file too large to verify when it was opened: each is verified when it is read.
    """

    def __init__(self, ids: Ids, vectors: Vectors, sums: NDArray[np.uint32] | None = None, *, unchecked: bool = False):
        self.ids, self.vectors = ids, vectors
        self._sums = sums
        self._unchecked = unchecked

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def find(self, ids: Ids) -> NDArray[np.int64]:
        """Row numbers of those of ``ids`` that are here, in the order given."""
        if len(self.ids) == 0:
            return np.empty(0, np.int64)
        at = np.searchsorted(self.ids, ids)
        at[at == len(self.ids)] = 0
        found: NDArray[np.int64] = at[self.ids[at] == ids]
        return found

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """Those rows, (m, k).

        Raises:
            IntegrityError: a row is not the one that was written.
        """
        out = self.vectors[rows]
        if self._unchecked:
            self._check(rows, out)
        return out

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """All rows in order, as (first row number, block)."""
        step = max(1, BLOCK_BYTES // (4 * self.dim))
        for start in range(0, len(self), step):
            block = self.vectors[start : start + step]
            if self._unchecked:
                self._check(np.arange(start, start + len(block)), block)
            yield start, block
        self._unchecked = False

    def _check(self, rows: NDArray[np.int64], vectors: Vectors) -> None:
        assert self._sums is not None
        found = checksums(vectors)
        wrong = np.flatnonzero(found != self._sums[rows])
        if len(wrong):
            row = int(wrong[0])
            raise IntegrityError(
                what="index row",
                name=str(self.ids[rows[row]]),
                expected=int(self._sums[rows[row]]),
                found=int(found[row]),
            )


def checksums(vectors: Vectors) -> NDArray[np.uint32]:
    """CRC-32 of each row's bytes, uint32 (m,)."""
    return np.fromiter((zlib.crc32(row) for row in np.ascontiguousarray(vectors)), np.uint32, len(vectors))


def write_rows(folder: Path, dim: int, batches: Iterable[Batch]) -> tuple[int, NDArray[np.float64]]:
    """Write rows given in ascending id order: ``ids.i64``, ``vectors.f32``, ``sums.u32`` (little-endian, no header).

    Returns the number of rows, and the mean square of each component over them, float64 (dim,): where the vectors'
    energy lies.

    Raises:
        IntegrityError: ids out of order, or vectors that no index would admit.
    """
    energy, count, last = np.zeros(dim), 0, None
    with (
        open(folder / "ids.i64", "wb") as id_file,
        open(folder / "vectors.f32", "wb") as vector_file,
        open(folder / "sums.u32", "wb") as sum_file,
    ):
        for raw_ids, raw_vectors in batches:
            ids, vectors = as_ids(raw_ids), as_vectors(raw_vectors, dim)
            joined = ids if last is None else np.concatenate([[last], ids])
            if len(ids) != len(vectors) or not (joined[1:] > joined[:-1]).all():
                raise IntegrityError(what="index rows", name="ids", expected="ascending", found="not so")
            if len(ids) == 0:
                continue
            last = ids[-1]
            id_file.write(ids.astype("<i8").tobytes())
            vector_file.write(vectors.astype("<f4", copy=False).tobytes())
            sum_file.write(checksums(vectors).astype("<u4").tobytes())
            energy += np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64)
            count += len(ids)
    return count, energy / max(count, 1)


def written(folder: Path, dim: int) -> Vectors:
    """The vectors ``write_rows`` has just written, mapped, (n, dim)."""
    path = folder / "vectors.f32"
    if path.stat().st_size == 0:
        return np.empty((0, dim), np.float32)
    return np.memmap(path, "<f4", "r").view(np.ndarray).reshape(-1, dim)


def read_rows(files: Files, dim: int, *, unchecked: bool) -> Rows:
    """The base written by ``write_rows``, over its memory-mapped files.

    Raises:
        IntegrityError: the files do not fit one another.
    """
    ids = files["ids.i64"].view("<i8").astype(np.int64, copy=False)
    sums = files["sums.u32"].view("<u4").astype(np.uint32, copy=False)
    flat = files["vectors.f32"].view("<f4").astype(np.float32, copy=False)
    if len(flat) != len(ids) * dim or len(sums) != len(ids) or not (ids[1:] > ids[:-1]).all():
        raise IntegrityError(what="index rows", name="files", expected=f"{len(ids)} × {dim}", found=str(len(flat)))
    return Rows(ids, flat.reshape(len(ids), dim), sums, unchecked=unchecked)


class Tail:
    """Rows in memory that come and go: dense arrays with room to grow, and where each id is."""

    def __init__(self, dim: int) -> None:
        self._ids = np.empty(0, np.int64)
        self._vectors = np.empty((0, dim), np.float32)
        self._at: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._at)

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self)]

    @property
    def vectors(self) -> Vectors:
        return self._vectors[: len(self)]

    def put(self, ids: Ids, vectors: Vectors) -> None:
        """Add or replace rows; ``ids`` are distinct."""
        known = np.fromiter((self._at.get(int(i), -1) for i in ids), np.int64, len(ids))
        old = known >= 0
        self._vectors[known[old]] = vectors[old]
        self._append(ids[~old], vectors[~old])

    def _append(self, ids: Ids, vectors: Vectors) -> None:
        start, stop = len(self), len(self) + len(ids)
        if stop > len(self._ids):
            room = max(stop, start * 3 // 2)
            self._ids = np.concatenate([self.ids, np.empty(room - start, np.int64)])
            grown = np.empty((room, self._vectors.shape[1]), np.float32)
            grown[:start] = self.vectors
            self._vectors = grown
        self._ids[start:stop] = ids
        self._vectors[start:stop] = vectors
        self._at.update(zip(ids.tolist(), range(start, stop), strict=True))

    def drop(self, ids: Ids) -> int:
        """Remove rows; the last one moves into each hole."""
        before = len(self)
        for key in ids.tolist():
            hole = self._at.pop(key, None)
            if hole is None:
                continue
            end = len(self._at)
            if hole != end:
                moved = int(self._ids[end])
                self._ids[hole], self._vectors[hole] = moved, self._vectors[end]
                self._at[moved] = hole
        return before - len(self)


class SegmentedIndex(ABC):
    """A base, a tail and the dead rows of the base. Kinds differ in how they search the base."""

    kind: ClassVar[str]

    def __init__(self, dim: int, base: Rows | None = None) -> None:
        self._dim = dim
        self._base = base if base is not None else Rows(np.empty(0, np.int64), np.empty((0, dim), np.float32))
        self._dead = np.zeros(len(self._base), bool)
        self._tail = Tail(dim)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def size(self) -> int:
        return len(self._base) - int(self._dead.sum()) + len(self._tail)

    @property
    def pending(self) -> int:
        """Rows the base does not hold as they are now: what a save would fold in."""
        return int(self._dead.sum()) + len(self._tail)

    def ids(self) -> Ids:
        return np.sort(np.concatenate([self._base.ids[~self._dead], self._tail.ids]))

    def add(self, ids: ArrayLike, vectors: ArrayLike) -> None:
        keys, rows = as_batch(ids, vectors, self._dim)
        self._dead[self._base.find(keys)] = True
        self._tail.put(keys, rows)

    def remove(self, ids: ArrayLike) -> int:
        keys = np.unique(as_ids(ids))
        rows = self._base.find(keys)
        fresh = rows[~self._dead[rows]]
        self._dead[fresh] = True
        return len(fresh) + self._tail.drop(keys)

    def search(
        self, queries: ArrayLike, limit: int, *, allowed: ArrayLike | None = None, forbidden: ArrayLike | None = None
    ) -> tuple[Ids, Vectors]:
        asked = as_vectors(queries, self._dim, what="query")
        allow = None if allowed is None else np.unique(as_ids(allowed))
        forbid = None if forbidden is None else np.unique(as_ids(forbidden))
        base_rows = self._eligible_base(allow, forbid)
        tail_rows = _eligible(self._tail.ids, allow, forbid)
        found = (len(self._base) if base_rows is None else len(base_rows)) + len(tail_rows)
        width = max(0, min(limit, found))
        ids = np.empty((len(asked), width), np.int64)
        scores = np.empty((len(asked), width), np.float32)
        if width == 0 or len(asked) == 0:
            return ids, scores
        base = self._search_base(asked, width, base_rows)
        tail = search_rows(self._tail.ids, self._tail.vectors, asked, width, tail_rows)
        for i, ((ids_a, scores_a), (ids_b, scores_b)) in enumerate(zip(base, tail, strict=True)):
            ids[i], scores[i] = best(np.concatenate([ids_a, ids_b]), np.concatenate([scores_a, scores_b]), width)
        return ids, scores

    def batches(self, rows: int = 4096) -> Iterator[Batch]:
        live = np.flatnonzero(~self._dead)
        keys = np.concatenate([self._base.ids[live], self._tail.ids])
        places = np.concatenate([live, len(self._base) + np.arange(len(self._tail))])
        order = np.argsort(keys)
        for start in range(0, len(order), rows):
            part = order[start : start + rows]
            place = places[part]
            in_base = place < len(self._base)
            vectors = np.empty((len(part), self._dim), np.float32)
            vectors[in_base] = self._base.take(place[in_base])
            vectors[~in_base] = self._tail.vectors[place[~in_base] - len(self._base)]
            yield keys[part], vectors

    def _eligible_base(self, allow: Ids | None, forbid: Ids | None) -> NDArray[np.int64] | None:
        """Row numbers of the base that may be returned, ascending; None = all of them."""
        if allow is not None:
            rows = self._base.find(allow)
            rows = rows[~self._dead[rows]]
            return rows if forbid is None else rows[~member(self._base.ids[rows], forbid)]
        dropped = self._dead
        if forbid is not None and len(forbid):
            dropped = dropped.copy()
            dropped[self._base.find(forbid)] = True
        return np.flatnonzero(~dropped) if dropped.any() else None

    @classmethod
    @abstractmethod
    def write(cls, folder: Path, dim: int, batches: Iterable[Batch]) -> int:
        """Write into an empty folder all that ``load`` makes an index of those rows from; returns their number.

        Rows come in ascending id order and one batch is in memory at a time.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, files: Files, dim: int, *, unchecked: bool) -> Self:
        """The index ``write`` wrote, over its mapped files; rows are verified as they are read when ``unchecked``.

        Raises:
            IntegrityError: the files do not fit together.
        """

    @abstractmethod
    def _search_base(self, queries: Vectors, limit: int, rows: NDArray[np.int64] | None) -> list[tuple[Ids, Vectors]]:
        """For each query the best of those base rows (None = all), at most ``limit``, in order, with their scores."""


def _eligible(ids: Ids, allow: Ids | None, forbid: Ids | None) -> NDArray[np.int64]:
    keep = np.ones(len(ids), bool) if allow is None else member(ids, allow)
    if forbid is not None:
        keep &= ~member(ids, forbid)
    return np.flatnonzero(keep)


def search_rows(
    ids: Ids, vectors: Vectors, queries: Vectors, limit: int, rows: NDArray[np.int64]
) -> list[tuple[Ids, Vectors]]:
    """Exact search of rows in memory: a float32 product finds who can be among the best, ``score`` decides."""
    subset = vectors if len(rows) == len(vectors) else vectors[rows]
    names = ids if len(rows) == len(vectors) else ids[rows]
    out = []
    step = max(1, SCAN_BYTES // (4 * max(1, len(names))))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        approximate = subset @ part.T
        for query, column in zip(part, approximate.T, strict=True):
            near = contenders(column, limit, len(query))
            out.append(best(names[near], score(subset[near], query), limit))
    return out
