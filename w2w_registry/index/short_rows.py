"""Rows of one byte a component: near enough to say which few rows decide, and these are read where the truth is.

A row is stored as whole steps of a size of its own, each component's in proportion to the spread that the first rows
have there, and with how far that is from the row: so every score has a bound on both sides. The exact rows of the last
dozen come from a ``Source``, the catalog's coordinates. A row that lies farther from its code there than was written
says that the index is damaged, or of another catalog.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError
from w2w_registry.index.protocol import Ids, Vectors
from w2w_registry.index.rows import BLOCK_BYTES, Files, Rows, checksums

STEPS = 127
FEW = 8  # rows whose spread counts for little: so many more are added that spread evenly
SURE = 3.0  # standard deviations of a product's rounding that a row is given the benefit of
Codes = NDArray[np.int8]


class ShortRows(Rows):
    """Rows (n, k) as int8 ``vectors`` of steps: row ≈ code · ``weights`` (k,) · ``scales`` (n,), ‖row − that‖ ≤
    ``errors`` (n,)."""

    def __init__(
        self,
        ids: Ids,
        codes: Codes,
        sums: NDArray[np.uint32],
        scales: Vectors,
        errors: Vectors,
        weights: Vectors,
        *,
        unchecked: bool = False,
    ) -> None:
        super().__init__(ids, codes, sums, unchecked=unchecked)  # type: ignore[arg-type]
        self.errors: Vectors = errors
        self._scales, self._weights = scales, weights

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        there, vectors = self.there(rows)
        if not there.all():
            missing = int(self.ids[rows[np.argmin(there)]])
            raise IntegrityError(what="index row", name=str(missing), expected="coordinates", found="none")
        return vectors

    def there(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Vectors]:
        assert self.source is not None, "short rows are read beside a source of the exact ones"
        if len(rows) == 0:
            return np.ones(0, bool), np.empty((0, self.dim), np.float32)
        wanted, at = np.unique(self.ids[rows], return_inverse=True)
        found, units = self.source(wanted)
        if len(found) == len(wanted):
            there, vectors = np.ones(len(rows), bool), units[at]
        else:
            known = np.isin(wanted, found)
            there, vectors = known[at], np.zeros((len(rows), self.dim), np.float32)
            vectors[there] = units[(np.cumsum(known) - 1)[at[there]]] if known.any() else 0
        gaps = self._decoded(self._read(rows), rows)
        gaps -= vectors
        allowed = self.errors[rows] * np.float32(1 + 1e-4) + np.float32(1e-5)
        far = there & (np.einsum("ij,ij->i", gaps, gaps) > allowed**2)
        if far.any():
            row = int(self.ids[rows[np.argmax(far)]])
            raise IntegrityError(what="index row", name=str(row), expected="near its coordinates", found="not so")
        return there, vectors

    def products(self, queries: Vectors, rows: NDArray[np.int64]) -> Vectors:
        self.expect(rows)
        asked = np.ascontiguousarray((queries * self._weights).T)
        return (self._read(rows).astype(np.float32) @ asked * self._scales[rows, None]).T

    def scan(self, queries: Vectors) -> Iterator[tuple[int, Vectors]]:
        asked = np.ascontiguousarray((queries * self._weights).T)
        for start, codes in self._parts():
            yield start, (codes.astype(np.float32) @ asked * self._scales[start : start + len(codes), None]).T

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        for start, codes in self._parts():
            yield start, self._decoded(codes, np.arange(start, start + len(codes)))

    def each_product(self, queries: Vectors, places: NDArray[np.int64]) -> Vectors:
        """float32 products of each query (q, k) with its rows (q, m), unverified; −∞ where a place is −1."""
        out = np.empty(places.shape, np.float32)
        asked = queries * self._weights
        for i, at in enumerate(places):
            np.matmul(self.vectors.take(at, 0, mode="wrap").astype(np.float32), asked[i], out=out[i])
        out *= self._scales[places]
        out[places < 0] = -np.inf
        return out

    def doubts(self, queries: Vectors, places: NDArray[np.int64]) -> Vectors:
        """By how much the products of queries (q, k), each with its own rows (q, m), hardly ever are off: each
        component is rounded by itself and evenly up to half a step, of standard deviation step/√12."""
        asked = queries * self._weights
        found: Vectors = self._scales[places]
        found *= np.sqrt(np.einsum("ij,ij->i", asked, asked) * np.float32(SURE**2 / 12))[:, None]
        return found

    def _decoded(self, codes: Codes, rows: NDArray[np.int64]) -> Vectors:
        out: Vectors = codes.astype(np.float32)
        out *= self._weights
        out *= self._scales[rows, None]
        return out

    def _read(self, rows: NDArray[np.int64]) -> Codes:
        codes: Codes = self.vectors[rows]  # type: ignore[assignment]
        if self._unchecked:
            self._check(rows, codes)
        return codes

    def _parts(self) -> Iterator[tuple[int, Codes]]:
        yield from self._stored(max(1, BLOCK_BYTES // (4 * self.dim)))  # type: ignore[misc]


class ShortWriter:
    """Writes ``vectors.i8``, ``sums.u32`` (CRC-32 of each row's bytes), ``steps.f32``, ``rounding.f32`` and
    ``weights.f32`` of rows as they come."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, IO[bytes]] = {
            name: open(folder / name, "wb")  # noqa: SIM115 - closed by close()
            for name in ("vectors.i8", "sums.u32", "steps.f32", "rounding.f32", "weights.f32")
        }
        self._weights: Vectors | None = None

    def add(self, vectors: Vectors) -> None:
        if self._weights is None:
            self._weights = spread_of(vectors)
            self._files["weights.f32"].write(self._weights.astype("<f4").tobytes())
        codes, scales, errors = shortened(vectors, self._weights)
        self._files["vectors.i8"].write(codes.tobytes())
        self._files["sums.u32"].write(checksums(codes).astype("<u4").tobytes())
        self._files["steps.f32"].write(scales.astype("<f4").tobytes())
        self._files["rounding.f32"].write(errors.astype("<f4").tobytes())

    def close(self) -> None:
        for stream in self._files.values():
            stream.close()


def spread_of(vectors: Vectors) -> Vectors:
    """The root mean square of each component (k,), of a few rows drawn towards that of all; 1 where there is nothing
    to see."""
    squares = np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64)
    mean = float(squares.mean()) / max(1, len(vectors))
    if mean < 1e-24:
        return np.ones(vectors.shape[1], np.float32)
    spread: Vectors = np.sqrt((squares + FEW * mean) / (len(vectors) + FEW)).astype(np.float32)
    return spread


def shortened(vectors: Vectors, weights: Vectors) -> tuple[Codes, Vectors, Vectors]:
    """Rows (n, k) as steps int8 (n, k), the size of a step (n,), and ‖row − code · weights · step‖ rounded up (n,)."""
    scaled = vectors / weights
    scales = np.abs(scaled).max(axis=1, initial=0.0) / np.float32(STEPS)
    some = np.where(scales > 0, scales, np.float32(1))[:, None]
    codes = np.clip(np.rint(scaled / some), -STEPS, STEPS).astype(np.int8)
    gaps = vectors - codes.astype(np.float32) * weights * scales[:, None]
    errors = np.sqrt(np.einsum("ij,ij->i", gaps, gaps)) * np.float32(1 + 1e-5) + np.float32(1e-6)
    return codes, scales.astype(np.float32), errors.astype(np.float32)


def read_short(files: Files, dim: int, *, unchecked: bool) -> ShortRows:
    """The rows that ``ShortWriter`` wrote, beside their ``ids.i64``, over the memory-mapped files.

    Raises:
        IntegrityError: the files do not fit one another.
    """
    ids = files["ids.i64"].view("<i8").astype(np.int64, copy=False)
    sums = files["sums.u32"].view("<u4").astype(np.uint32, copy=False)
    codes = files["vectors.i8"].view(np.int8)
    scales, errors, weights = (
        files[f"{name}.f32"].view("<f4").astype(np.float32, copy=False) for name in ("steps", "rounding", "weights")
    )
    whole = len(codes) == len(ids) * dim and len(sums) == len(scales) == len(errors) == len(ids)
    if not whole or len(weights) != dim or not (ids[1:] > ids[:-1]).all():
        raise IntegrityError(what="index rows", name="files", expected=f"{len(ids)} × {dim}", found=str(len(codes)))
    return ShortRows(ids, codes.reshape(len(ids), dim), sums, scales, errors, weights, unchecked=unchecked)
