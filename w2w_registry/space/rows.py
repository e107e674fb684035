"""A fit set's θ read again and again in pieces that fit in memory, standardised: what the fit computes on.

Rows come as an array (numpy, a memory map, torch on any device), which can be read by columns too, or as a re-iterable
of row blocks. Nothing here holds more than one piece.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space.layout import Factor, Layout

Scaling = Literal["module", "parameter"]
Side = Literal["rows", "columns"]

_PIECE = 1 << 21  # numbers of a piece
_LONG = 2048  # of the long side in a piece at least, so that adding up the squares does not cost what making them does
_SHORT = 256
_CACHED = 1 << 16  # numbers in double precision that stay near the processor
_FLOOR = 1e-2
_HASHED_AHEAD = 4  # blocks that wait for the hashing thread


@dataclass(frozen=True)
class Moments:
    """Of n rows: μ and σ (D,) float32 as the space stores them, Σ var/σ², and the digest of the rows' digests."""

    count: int
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    total: float
    rows_digest: str


class Rows:
    """θ (n, D) in pieces. ``array`` is None for a stream, which can be read by rows only."""

    def __init__(self, data: Any) -> None:
        self.array = data if hasattr(data, "shape") else None
        self._blocks: Iterable[Any] = () if self.array is not None else data

    def blocks(self, least: int = 1) -> Iterator[Any]:
        """Row blocks (m, D), of an array with ``least`` rows or more each (but for the last)."""
        if self.array is None:
            yield from (block for block in self._blocks if block.shape[0])
            return
        n, d = self.array.shape
        step = max(least, _PIECE // max(1, d), 1)
        for first in range(0, n, step):
            yield self.array[first : first + step, :]
            forget(self.array)

    def columns(self, least: int, numbers: int) -> Iterator[tuple[slice, Any]]:
        """Column pieces (n, c) of an array with their place in θ: ``least`` columns or ``numbers`` numbers each."""
        assert self.array is not None
        n, d = self.array.shape
        step = max(least, numbers // max(1, n))
        for first in range(0, d, step):
            part = slice(first, min(first + step, d))
            yield part, self._columns_of(part)

    def _columns_of(self, part: slice) -> Any:
        """Some columns; of a memory map a copy, made few rows at a time, as the system maps far more than is read."""
        if not isinstance(self.array, np.memmap):
            return None if self.array is None else self.array[:, part]
        n, d = self.array.shape
        out = np.empty((n, part.stop - part.start), self.array.dtype)
        step = max(1, _PIECE // max(1, d))
        for first in range(0, n, step):
            out[first : first + step] = self.array[first : first + step, part]
            forget(self.array)
        return out


def forget(array: Any) -> None:
    """Let the pages of a memory map go that were read so far: they stay in the system's cache, not in this process."""
    mapped = getattr(array, "_mmap", None)
    shared = getattr(array, "mode", "c") != "c"  # what was written to a private map would be lost
    if shared and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class Standardised:
    """z = (θ − μ)/σ in pieces of either side: ``rows`` gives (m, D), ``columns`` gives transposed (c, n).

    ``squared``: their squares are summed up, so that pieces should be long.
    """

    def __init__(self, xp: Any, rows: Rows, moments: Moments, side: Side, dtype: Any, *, squared: bool) -> None:
        self.xp, self.rows, self.side, self.dtype = xp, rows, side, dtype
        self._long = _LONG if squared else _SHORT
        self._moments = moments
        self._constants: tuple[Any, Any] | None = None

    @property
    def short(self) -> int:
        """Length of the side that every piece has whole."""
        return self._moments.count if self.side == "columns" else len(self._moments.mean)

    def pieces(self) -> Iterator[tuple[slice, Any]]:
        """(place on the long side, z of it with the long side first)."""
        if self.side == "columns":
            for part, raw in self.rows.columns(self._long, _PIECE):
                yield part, self.xp.matrix_transpose(self._z(raw, part))
            return
        start = 0
        for raw in self.rows.blocks(self._long if self.short <= _PIECE // _LONG else 64):
            yield slice(start, start + raw.shape[0]), self._z(raw, slice(None))
            start += raw.shape[0]

    def _z(self, raw: Any, part: slice) -> Any:
        if self._constants is None:
            import array_api_compat

            inverse = 1.0 / self._moments.std.astype(np.float64)
            place = array_api_compat.device(raw)
            self._constants = (
                self.xp.asarray(self._moments.mean, dtype=self.dtype, device=place),
                self.xp.asarray(inverse, dtype=self.dtype, device=place),
            )
        mean, inverse = self._constants
        z = (raw if raw.dtype == self.dtype else self.xp.astype(raw, self.dtype)) - mean[part]
        z *= inverse[part]
        return z


def moments_of(xp: Any, rows: Rows, layout: Layout, scaling: Scaling, *, digest: str | None = None) -> Moments:
    """Mean and std in one read: each piece two-pass, row blocks merged by Chan's formula (stable, unlike
    E[x²] − E[x]²).

    Args:
        digest: of the rows, when it is known; else each row is hashed, on a thread of its own.

    Raises:
        UsageError: fewer than two rows, NaN or Inf, or rows that are all the same.
    """
    hasher = None if digest is not None else RowHasher()
    try:
        count, mean, squares = (_by_columns if rows.array is not None else _by_rows)(xp, rows, hasher)
        digest = digest if hasher is None else hasher.digest()
    finally:
        if hasher is not None:
            hasher.close()
    assert digest is not None
    variance = squares / (count - 1)
    if not np.isfinite(variance).all():
        raise UsageError(reason="the fit set contains NaN or Inf")
    if not (variance > 0).any():
        raise UsageError(reason="the LoRAs of the fit set are all the same")
    if scaling == "module":
        std = _module_std(layout, mean, variance, variance * (count - 1) / count).astype(np.float32)
    else:
        each = np.sqrt(variance)
        std = np.maximum(each, _FLOOR * np.median(each[each > 0])).astype(np.float32)
    total = float(np.sum(variance / std.astype(np.float64) ** 2))
    return Moments(count, mean.astype(np.float32), std, total, digest)


def _by_columns(xp: Any, rows: Rows, hasher: RowHasher | None) -> tuple[int, NDArray[Any], NDArray[Any]]:
    n, d = rows.array.shape if rows.array is not None else (0, 0)
    _at_least_two(n)
    if hasher is not None:
        for block in rows.blocks():
            hasher.add(to_numpy(block))
    mean, squares = np.empty(d), np.empty(d)
    with np.errstate(invalid="ignore", over="ignore"):
        for part, raw in rows.columns(64, _CACHED):
            near = xp.astype(raw, xp.float64)
            middle = xp.mean(near, axis=0)
            near -= middle
            near *= near
            mean[part], squares[part] = to_numpy(middle), to_numpy(xp.sum(near, axis=0))
    return n, mean, squares


def _by_rows(xp: Any, rows: Rows, hasher: RowHasher | None) -> tuple[int, NDArray[Any], NDArray[Any]]:
    count, mean, squares = 0, None, None
    with np.errstate(invalid="ignore", over="ignore"):
        for raw in rows.blocks():
            if hasher is not None:
                hasher.add(to_numpy(raw))
            block = xp.astype(raw, xp.float64)
            m = block.shape[0]
            block_mean = xp.mean(block, axis=0)
            block -= block_mean
            block *= block
            block_squares = xp.sum(block, axis=0)
            if mean is None:
                mean, squares = block_mean, block_squares
            else:
                gap = block_mean - mean
                squares = squares + block_squares + gap**2 * (count * m / (count + m))
                mean = mean + gap * (m / (count + m))
            count += m
    _at_least_two(count)
    return count, to_numpy(mean), to_numpy(squares)


def _at_least_two(count: int) -> None:
    if count < 2:
        raise UsageError(reason=f"a weight space needs at least two LoRAs, got {count}")


def _module_std(
    layout: Layout, mean: NDArray[Any], variance: NDArray[Any], spread: NDArray[Any]
) -> NDArray[np.float64]:
    """σ (D,) for ``scaling="module"``; ``spread`` is the variance about the mean as a plain average."""
    places = {tensor.key: part for tensor, part in layout.slices()}
    size = {key: float(np.sum(mean[part] ** 2 + spread[part])) for key, part in places.items()}  # E‖A‖², E‖B‖²
    inverse = np.empty(layout.dim)
    used = 0
    for module in layout.modules:
        parts: dict[Factor, slice] = {"A": places[(module, "A")], "B": places[(module, "B")]}
        gain = {"A": size[(module, "B")], "B": size[(module, "A")]}
        own = {factor: float(variance[part].sum()) for factor, part in parts.items()}
        says = {factor: np.sqrt(gain[factor] * own[factor]) for factor in parts}
        whole = says["A"] + says["B"]
        used += whole > 0
        for factor, part in parts.items():
            other: Factor = "B" if factor == "A" else "A"
            if says[factor] > 0:
                inverse[part] = np.sqrt(says[factor] / whole / own[factor])
            elif whole > 0:
                # It never varied: count it, should it ever, by its effect against its partner's.
                inverse[part] = np.sqrt(gain[factor] / gain[other] / own[other])
            else:
                inverse[part] = 1.0 / np.sqrt(size[(module, factor)]) if size[(module, factor)] > 0 else 1.0
    return np.asarray(np.sqrt(used / layout.dim) / inverse)


class RowHasher:
    """SHA-256 of every row as little-endian float32, taken on a thread beside the arithmetic; the digest of all is
    that of the rows' digests in sorted order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="row-hasher")
        self._waiting: list[Future[list[bytes]]] = []
        self._rows: list[bytes] = []

    def add(self, block: NDArray[Any]) -> None:
        """Rows (m, D), which must not change until :meth:`digest`."""
        self._waiting.append(self._thread.submit(_row_digests, block))
        while len(self._waiting) > _HASHED_AHEAD:
            self._rows += self._waiting.pop(0).result()

    def digest(self) -> str:
        for future in self._waiting:
            self._rows += future.result()
        self._waiting = []
        return hashlib.sha256(b"".join(sorted(self._rows))).hexdigest()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def _row_digests(block: NDArray[Any]) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(row, "<f4").data).digest() for row in block]


def to_numpy(array: Any) -> NDArray[Any]:
    """An array of any library as a numpy one."""
    import array_api_compat

    if isinstance(array, np.ndarray):
        return array
    return np.asarray(array_api_compat.to_device(array, "cpu"))
