"""Rows of vectors: immutable and memory-mapped as they were written, or in memory while they come and go."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError
from w2w_registry.index.protocol import Batch, Ids, Vectors
from w2w_registry.index.vectors import as_ids, as_vectors

BLOCK_BYTES = 1 << 23  # rows are scanned in blocks of about this size
SCAN_BYTES = 1 << 26  # approximate scores held at once: rows × queries × 4 bytes
_FETCHES, _FETCH_ROWS = 4, 4096  # how often, and of how many rows, the system is told ahead
_MAP_AFTER, _MAP_BYTES = 32, 1 << 24  # after so many times the file is mapped, so much of it at a time
MADV_POPULATE_READ = 22  # Linux; not among mmap's names yet
Files = Mapping[str, NDArray[np.uint8]]
Source = Callable[[Ids], Batch]
"""The exact vectors of ids (distinct, ascending), as the catalog has them: of those that it has, ascending."""


class Rows:
    """Immutable rows in ascending id order, with the checksum of each (``sums``, CRC-32 of its bytes).

    ``unchecked`` rows came from a file too large to verify when it was opened: each is verified when it is read.
    ``errors``: how far what is stored is from each row, None where the rows are stored as they are (``short_rows`` are
    not, and take them from ``source``).
    """

    errors: Vectors | None = None
    source: Source | None = None

    def __init__(self, ids: Ids, vectors: Vectors, sums: NDArray[np.uint32] | None = None, *, unchecked: bool = False):
        self.ids, self.vectors = ids, vectors
        self._sums = sums
        self._unchecked = unchecked
        self._map: mmap.mmap | None = None
        self._expected = self._mapped = 0
        self._mapping = Lock()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def find(self, ids: Ids) -> NDArray[np.int64]:
        """Row numbers of those of ``ids``, which are distinct and ascending, that are here."""
        if len(self.ids) == 0 or len(ids) == 0:
            return np.empty(0, np.int64)
        first = self.ids[0]
        if self.ids[-1] - first == len(self.ids) - 1:  # without gaps, as ids of a catalog mostly are
            if ids[0] >= first and ids[-1] <= self.ids[-1]:
                return np.asarray(ids - first)
            here: NDArray[np.int64] = ids[(ids >= first) & (ids <= self.ids[-1])] - first
            return here
        at = np.searchsorted(self.ids, ids)
        at[at == len(self.ids)] = 0
        found: NDArray[np.int64] = at[self.ids[at] == ids]
        return found

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """Those rows, (m, k).

        Raises:
            IntegrityError: a row is not the one that was written.
        """
        self.expect(rows)
        out = self.vectors[rows]
        if self._unchecked:
            self._check(rows, out)
        return out

    def there(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Vectors]:
        """Which of those rows (m,) are still to be had, and the rows (m, k), zeros where one is not.

        Raises:
            IntegrityError: as ``take``.
        """
        return np.ones(len(rows), bool), self.take(rows)

    def products(self, queries: Vectors, rows: NDArray[np.int64]) -> Vectors:
        """float32 products (q, m) of queries (q, k) with what is stored of those rows (m,)."""
        return (self.take(rows) @ queries.T).T

    def scan(self, queries: Vectors) -> Iterator[tuple[int, Vectors]]:
        """float32 products (q, m) of queries (q, k) with what is stored of all rows in order, as (first row number,
        products)."""
        for start, block in self.blocks():
            yield start, queries @ block.T

    def read_at_random(self, mapped: mmap.mmap) -> None:
        """From here on rows are taken here and there from the file ``mapped``: the system need not read around them."""
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
            self._map = mapped

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Tell the system that those rows are read next.

        A process that asks once has them fetched together, which a disk answers faster than one page fault after the
        other. One that goes on asking maps the whole file, a step at each call, where half the memory can hold it: a
        fault a row costs more than the row.
        """
        if self._map is None:
            return
        self._expected += 1
        if self._expected <= _FETCHES:
            size, page = self.vectors.itemsize * self.dim, mmap.PAGESIZE
            for row in rows[:_FETCH_ROWS].tolist():
                start = row * size // page * page
                self._map.madvise(mmap.MADV_WILLNEED, start, min((row + 1) * size, len(self._map)) - start)
        elif self._expected > _MAP_AFTER and self._mapped < len(self._map) and self._mapping.acquire(blocking=False):
            try:
                self._map_more(self._map)
            finally:
                self._mapping.release()

    def _map_more(self, mapped: mmap.mmap) -> None:
        if self._mapped == 0:
            if len(mapped) > os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2:
                self._mapped = len(mapped)
                return
            mapped.madvise(mmap.MADV_NORMAL)
        step = min(_MAP_BYTES, len(mapped) - self._mapped)
        try:
            mapped.madvise(MADV_POPULATE_READ, self._mapped, step)
        except OSError:  # a kernel before 5.14: page by page, then
            step = len(mapped) - self._mapped
        self._mapped += step

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """What is stored of all rows in order, as (first row number, block)."""
        yield from self._stored(max(1, BLOCK_BYTES // (4 * self.dim)))

    def _stored(self, step: int) -> Iterator[tuple[int, Vectors]]:
        if self._map is not None:
            self._map.madvise(mmap.MADV_SEQUENTIAL)
        for start in range(0, len(self), step):
            block = self.vectors[start : start + step]
            if self._unchecked:
                self._check(np.arange(start, start + len(block)), block)
            yield start, block
        if self._map is not None:
            self._map.madvise(mmap.MADV_RANDOM)
        self._unchecked = False

    def _check(self, rows: NDArray[np.int64], vectors: NDArray[Any]) -> None:
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


def checksums(vectors: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of each row's bytes, uint32 (m,)."""
    return np.fromiter((zlib.crc32(row) for row in np.ascontiguousarray(vectors)), np.uint32, len(vectors))


def write_rows(folder: Path, dim: int, batches: Iterable[Batch], *also: Callable[[Vectors], None]) -> int:
    """Write the ids of rows given in ascending id order, ``ids.i64`` (little-endian, no header), and show every batch
    of vectors to ``also``; returns the number of rows.

    Raises:
        IntegrityError: ids out of order, or vectors that no index would admit.
    """
    count, last = 0, None
    with open(folder / "ids.i64", "wb") as id_file:
        for raw_ids, raw_vectors in batches:
            ids, vectors = as_ids(raw_ids), as_vectors(raw_vectors, dim)
            joined = ids if last is None else np.concatenate([[last], ids])
            if len(ids) != len(vectors) or not (joined[1:] > joined[:-1]).all():
                raise IntegrityError(what="index rows", name="ids", expected="ascending", found="not so")
            if len(ids) == 0:
                continue
            last = ids[-1]
            id_file.write(ids.astype("<i8").tobytes())
            for show in also:
                show(vectors)
            count += len(ids)
    return count


class RowWriter:
    """Writes ``vectors.f32`` and ``sums.u32`` (CRC-32 of each row's bytes) of rows as they come."""

    def __init__(self, folder: Path) -> None:
        self._vectors = open(folder / "vectors.f32", "wb")  # noqa: SIM115 - closed by close()
        self._sums = open(folder / "sums.u32", "wb")  # noqa: SIM115 - closed by close()

    def add(self, vectors: Vectors) -> None:
        self._vectors.write(vectors.astype("<f4", copy=False).tobytes())
        self._sums.write(checksums(vectors).astype("<u4").tobytes())

    def close(self) -> None:
        self._vectors.close()
        self._sums.close()


def read_rows(files: Files, dim: int, *, unchecked: bool) -> Rows:
    """The rows that ``write_rows`` and ``RowWriter`` wrote, over its memory-mapped files.

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

    def copy(self) -> Tail:
        """The same rows, in arrays of their own."""
        found = Tail(self._vectors.shape[1])
        found._ids, found._vectors, found._at = self.ids.copy(), self.vectors.copy(), self._at.copy()
        return found

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
