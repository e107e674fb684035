"""Scanning short codes with FAISS's fast scan: the rows that score best by their codes, a query at a time or many.

A process that asks once reads the codes in chunks through one small buffer, so that it needs neither the memory nor the
time to hold them; one that goes on asking keeps them (``RESIDENT_AFTER``). Shards are scanned in threads of our own:
FAISS releases the GIL, and gives one query to one thread.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Lock, local
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError, MissingExtra
from w2w_registry.index.codes import BLOCK, CHUNK, Code, decode, encode, pack, steered
from w2w_registry.index.protocol import Vectors

_LARGE_PAGE = 2 << 20
RESIDENT_AFTER = 2  # queries answered from disk before the codes are kept in memory
_MANY, _FOUR_AT_A_TIME = 8, 0x44
"""Of eight queries or more, four at a time share what is read of the codes, a tenth faster than two and a third faster
than FAISS's own choice (measured at 104 and 1,000 components, 100,000 to 270,000 rows), which fewer are left to."""
WORTH_A_THREAD = 150_000
"""Rows for which another thread is worth waking: 100,000 are scanned in a millisecond, which two threads never beat."""
Found = tuple[Vectors, NDArray[np.int64]]
Part = TypeVar("Part")
Done = TypeVar("Done")


@cache
def faiss() -> ModuleType:
    """The package. Raises MissingExtra when it is not installed."""
    try:
        import faiss as module
    except ImportError:
        raise MissingExtra(package="faiss", extra="cpu", feature="the faiss index") from None
    found: ModuleType = module
    return found


def understands(code: Code) -> bool:
    """Whether this FAISS packs codes as we do and scores them within the bound that we rely on."""
    return _understood(Code(code.name, tuple((quantiser, 64) for quantiser, _ in code.parts)))


@cache
def _understood(code: Code) -> bool:
    rows = 3 * BLOCK + 5
    rng = np.random.default_rng(0)
    data = rng.standard_normal((rows + 4, 64 * len(code.parts))).astype(np.float32)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    codes = encode(data[:rows], code)
    scanner = _blank(code)
    _fill(scanner, pack(codes), rows)
    asked, excess, bound = steered(data[rows:], code)
    scores, found = scanner.search(asked, rows)
    true = data[rows:] @ decode(codes, code).T
    if (np.sort(found, axis=1) != np.arange(rows)).any():
        return False
    off = np.abs(scores - excess[:, None] - np.take_along_axis(true, found, axis=1))
    return bool((off <= bound[:, None]).all())


class Scan:
    """The packed codes of a segment's rows in one file, with the checksums of its chunks."""

    def __init__(self, path: Path, sums: NDArray[np.uint32], rows: int, code: Code, threads: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._name, self._sums, self._rows, self._code = path.name, sums, rows, code
        self._row_bytes = code.row_bytes
        if os.fstat(self._descriptor).st_size != -(-rows // BLOCK) * BLOCK * self._row_bytes:
            raise IntegrityError(what="index file", name=path.name, expected=rows, found="another length")
        self._threads = max(1, threads)
        self._reading = Lock()
        self._shards: list[tuple[int, Any]] | None = None
        self._buffers = local()
        self._asked = 0

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def resident_bytes(self) -> int:
        """Memory the codes take while they are kept."""
        return 0 if self._shards is None else sum(index.codes.size() for _, index in self._shards)

    def top(
        self, rotated: Vectors, wanted: int, *, checked: bool = False
    ) -> tuple[Vectors, NDArray[np.int64], Vectors]:
        """The ``wanted`` rows of each query whose decoded vectors score best.

        Args:
            rotated: float32 (q, components).
            checked: verify the codes that are read; those kept in memory have been verified.

        Returns:
            Estimated scores float32 (q, m), descending; row numbers int64 (q, m), m = min(wanted, rows); and how far
            an estimate can be from the product with the decoded row, float32 (q,).

        Raises:
            IntegrityError: codes found damaged.
        """
        asked, excess, bound = steered(rotated, self._code)
        wanted = min(wanted, self._rows)
        with self._reading:
            if self._shards is None and self._asked + len(rotated) > RESIDENT_AFTER:
                self._shards = self._read_all()
            self._asked += len(rotated)
        if self._shards is not None:
            scores, rows = self._of_shards(self._shards, asked, wanted)
        else:
            streams = each(lambda part: self._stream(part, asked, wanted, checked), self._parts())
            scores, rows = _best(streams, wanted)
        scores -= excess[:, None]
        return scores, rows, bound

    def _of_shards(self, shards: Sequence[tuple[int, Any]], asked: Vectors, wanted: int) -> Found:
        """Search the codes in memory. Of many queries each shard is asked for its share of the best, and some more; by
        a query of which a shard may have had still more of them it is asked again, for all that are wanted."""
        fair = min(wanted, wanted // len(shards) + 4 * math.isqrt(wanted))
        if len(asked) < _MANY or fair > min(index.ntotal for _, index in shards):
            fair = wanted
        parts = each(lambda shard: self._search(*shard, asked, fair), shards)
        scores, rows = _best(parts, wanted)
        if fair < wanted:
            more = np.flatnonzero(np.any([part[:, -1] > scores[:, -1] for part, _ in parts], axis=0))
            if len(more):
                again = _best([self._search(*shard, asked[more], wanted) for shard in shards], wanted)
                scores[more], rows[more] = again
        return scores, rows

    # -- where the codes are ---------------------------------------------------------------------
    def _chunks(self) -> range:
        return range(0, self._rows, CHUNK)

    def _parts(self) -> list[range]:
        """The chunks' first rows, a run of them for every thread."""
        starts = self._chunks()
        count = min(self._threads, len(starts), max(1, self._rows // WORTH_A_THREAD))
        cuts = [len(starts) * i // count for i in range(count + 1)]
        return [starts[a:b] for a, b in pairwise(cuts)]

    def _read_all(self) -> list[tuple[int, Any]]:
        """One FAISS index for every thread's run of chunks."""

        def shard(part: range) -> tuple[int, Any]:
            rows = min(part[-1] + CHUNK, self._rows) - part[0]
            index = _blank(self._code)
            view = _room(index, rows, self._row_bytes)
            for start in part:
                self._read(start, view[(start - part[0]) * self._row_bytes :], checked=True)
            return part[0], index

        return each(shard, self._parts())

    def _read(self, start: int, view: NDArray[np.uint8], *, checked: bool) -> int:
        """The codes of the chunk that begins at row ``start``, into ``view``; returns its rows."""
        rows = min(CHUNK, self._rows - start)
        wanted = -(-rows // BLOCK) * BLOCK * self._row_bytes
        target = view[:wanted]
        got = os.preadv(self._descriptor, [target.data], start * self._row_bytes)
        while 0 < got < wanted:
            more = os.preadv(self._descriptor, [target[got:].data], start * self._row_bytes + got)
            got = got + more if more else 0
        if got != wanted or (checked and zlib.crc32(target.data) != self._sums[start // CHUNK]):
            raise IntegrityError(
                what="index codes", name=self._name, expected=f"chunk {start // CHUNK}", found="damaged"
            )
        return rows

    def _stream(self, part: range, asked: Vectors, wanted: int, checked: bool) -> Found:
        """Search a run of chunks, each read into this thread's buffer."""
        if not hasattr(self._buffers, "index"):
            self._buffers.index = _blank(self._code)
            self._buffers.view = _room(self._buffers.index, min(CHUNK, self._rows), self._row_bytes)
        index, view = self._buffers.index, self._buffers.view
        best: Found | None = None
        for start in part:
            index.ntotal = self._read(start, view, checked=checked)
            index.ntotal2 = -(-index.ntotal // BLOCK) * BLOCK
            scores, rows = self._search(start, index, asked, wanted)
            best = _best([(scores, rows)] if best is None else [best, (scores, rows)], wanted)
        assert best is not None
        return best

    @staticmethod
    def _search(first: int, index: Any, asked: Vectors, wanted: int) -> Found:
        scores, rows = index.search(asked, min(wanted, index.ntotal))
        return scores, rows + first if first else rows


def _best(parts: Sequence[Found], wanted: int) -> Found:
    """The best of several answers, each in order: to a sort that keeps runs, they cost little more than one."""
    if len(parts) == 1:
        return parts[0]
    scores, rows = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _blank(code: Code) -> Any:
    """An empty FAISS index that decodes with our codebooks."""
    module = faiss()
    index = module.IndexPQFastScan(code.groups * code.per, code.groups, 4, module.METRIC_INNER_PRODUCT)
    module.copy_array_to_vector(code.centroids().ravel(), index.pq.centroids)
    index.is_trained = True
    index.qbs = _FOUR_AT_A_TIME
    return index


def _room(index: Any, rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Room in ``index`` for the codes of so many rows, to be written through the view that is returned."""
    index.ntotal, index.ntotal2 = rows, -(-rows // BLOCK) * BLOCK
    index.codes.resize(index.ntotal2 * row_bytes)
    view: NDArray[np.uint8] = faiss().rev_swig_ptr(index.codes.get(), index.ntotal2 * row_bytes)
    _in_large_pages(view)
    return view


def _in_large_pages(view: NDArray[np.uint8]) -> None:
    """Ask for large pages behind codes that are not written yet: a scan of 50 MB takes a twelfth less time (measured).
    Where the system has none, or does not know the wish, the pages are as always."""
    advice, least = getattr(mmap, "MADV_HUGEPAGE", None), 2 * _LARGE_PAGE
    if advice is None or view.nbytes < least:
        return
    start = -(-view.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = (view.ctypes.data + view.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(whole), advice)


def _fill(index: Any, packed: NDArray[np.uint8], rows: int) -> None:
    _room(index, rows, len(packed) // (-(-rows // BLOCK) * BLOCK))[:] = packed


def each(work: Callable[[Part], Done], parts: Sequence[Part]) -> list[Done]:
    """``work`` on every part, as many at once as there are ``threads``."""
    if len(parts) <= 1 or threads() == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(work, parts))


def threads() -> int:
    """How many threads search: ``OMP_NUM_THREADS`` where it is set, else the cores this process may use, at most 8."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else min(8, len(os.sched_getaffinity(0)))
