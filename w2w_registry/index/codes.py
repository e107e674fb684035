"""Short codes of unit vectors: rotate, then quantise every few components with a codebook that fits any data.

A random rotation makes the components of any unit vector in D dimensions near Gaussian with variance 1/D, so one
codebook for Gaussians serves every space: nothing is trained on users' data and nothing drifts as rows are added. Two
codes are kept, each 16 centroids a group, in the layout of FAISS's fast scan (André et al., "Cache locality is not
enough", VLDB 2015; Guo et al., ICML 2020 for the scan of 4-bit codes by table look-ups in registers):

    coarse  2 components a group, 2 bits each, of the leading half of the components: finds candidates, whose stored
            vectors then decide
    fine    1 component a group, 4 bits each, of all: small enough an error to prove that a row is not worth reading

A scan costs what it reads. Coordinates come by falling variance, and among strangers the spread of a score goes with
the squared variances, so that bits spent on the trailing half tell little: of as many bits, two on each leading
component leave about half the candidates that one on every component leaves, and no more where the spectrum is flat
(measured at 10⁵ rows of 1,000 components: docs/benchmarks.md).

One more pair of groups, the governor, holds the same code in every row, the largest. The scan adds 8-bit table entries
in 16 bits, scaled by the widest group alone; for wide vectors or a query of even components the sum would overflow,
silently. A query that puts a large value in the governor widens that scale as far as needed (see ``steered``).
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.index.protocol import Vectors

Codes = NDArray[np.uint8]
SEED = "w2w-registry rotation 1"
BLOCK = 32  # rows the fast scan takes at a time
CHUNK = 16_384  # rows with one checksum: 4 MB of coarse codes, which stays in a core's cache
GOVERNORS = 2
_MOST = 65_000  # of a 16-bit sum, with room for the entries' rounding
_ROWS = 2048
_DENSE = 256  # width up to which a rotation is one product
_WIDTHS = 8  # of a rotation that is no power of two: a multiple of it, so that its groups come in pairs
_REACH = 4.0  # standard deviations; beyond it a component takes the outermost centroid


@dataclass(frozen=True, eq=False)
class Quantiser:
    """16 ``centroids`` (16, per) for ``per`` components of a standard Gaussian; ``bits`` of the table's resolution."""

    name: str
    per: int
    bits: int
    centroids: Vectors

    @property
    def governor(self) -> int:
        """The code every row has there: the largest, so that a row's sum is never zero, which the scan passes over."""
        return int(self.centroids[:, 0].argmax())

    def groups(self, width: int) -> int:
        """Groups of a row of ``width`` components, governors included."""
        return width // self.per + GOVERNORS

    def row_bytes(self, width: int) -> int:
        return self.groups(width) // 2


# The best 16 points for a standard Gaussian, by Lloyd's iteration on its density: in one dimension (mean square error
# 0.0095; Max 1960, Table I) and in two (0.1075 a component, the best of 60 starts).
_ONE = (0.12848, 0.38829, 0.65712, 0.94278, 1.25671, 1.61854, 2.06950, 2.73302)
_TWO = (
    (-0.3517, 0.8223), (1.2195, 1.5899), (1.8203, 0.4302), (0.3761, -0.8711),
    (-1.5789, -0.9925), (-0.5245, -1.7830), (-0.0619, 1.8652), (0.5768, 0.7672),
    (-0.0025, 0.0061), (-1.2850, 1.3593), (-1.9864, 0.2541), (-0.9515, 0.1136),
    (-0.5317, -0.7122), (1.6430, -0.8765), (0.7709, -1.8447), (0.8850, -0.1026),
)  # fmt: skip
FINE = Quantiser("fine", 1, 12, np.array([*(-x for x in reversed(_ONE)), *_ONE], np.float32)[:, None])
COARSE = Quantiser("coarse", 2, 7, np.array(_TWO, np.float32))


@cache
def _table(quantiser: Quantiser) -> Codes:
    """The nearest centroid of every cell of a fine grid over ``per`` components, uint8 (2^(bits·per),)."""
    cells = 1 << quantiser.bits
    axis = (np.arange(cells) + 0.5) * (2 * _REACH / cells) - _REACH
    points = np.stack(np.meshgrid(*[axis] * quantiser.per, indexing="ij"), -1).reshape(-1, quantiser.per)
    nearest = ((points[:, None] - quantiser.centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    return np.asarray(nearest, np.uint8)


def leading(dim: int) -> int:
    """How many of ``dim`` components the coarse codes speak of: a power of two that is at least half of them."""
    return min(dim, max(512, 1 << (-(-dim // 2) - 1).bit_length()))


class Rotation:
    """A fixed orthogonal map R^dim → R^width that spreads every vector evenly over its components.

    Signs and a Walsh–Hadamard transform, in turn (Ailon and Chazelle 2009). Where the next power of two is much wider
    than ``dim``, the transform takes the first and the last power of two of the components in turn.
    """

    def __init__(self, dim: int) -> None:
        above = 1 << max(3, (dim - 1).bit_length())
        self.dim = dim
        narrow = -(-dim // _WIDTHS) * _WIDTHS
        self.width = above if above <= dim * 1.1 or dim < 64 else narrow
        self._size = above if above == self.width else above // 2
        rounds = 3 if self._size == self.width else 6
        self._signs = _signs(dim, rounds, self.width)
        self._small = _hadamard(1 << (self._size.bit_length() - 1) // 2)
        self._large = _hadamard(self._size // len(self._small))
        # Small transforms are slow to a product with the whole map, which takes no more than a few of their passes
        self._matrix = self._turned(np.eye(dim, dtype=np.float32)) if self.width <= _DENSE else None

    def __call__(self, vectors: Vectors) -> Vectors:
        """Rows (n, dim) as float32 (n, width); inner products change by rounding alone."""
        return self._turned(vectors) if self._matrix is None else vectors @ self._matrix

    def _turned(self, vectors: Vectors) -> Vectors:
        out = np.zeros((len(vectors), self.width), np.float32)
        out[:, : self.dim] = vectors
        if self._size == self.width:
            for signs in self._signs:
                out *= signs
                out = self._transform(out)
            return out
        for turn, signs in enumerate(self._signs):
            out *= signs
            start = 0 if turn % 2 == 0 else self.width - self._size
            part = out[:, start : start + self._size]
            out[:, start : start + self._size] = self._transform(part)
        return out

    def _transform(self, part: Vectors) -> Vectors:
        """The Hadamard transform as two small products, its components in a fixed other order."""
        rows, small, large = len(part), len(self._small), len(self._large)
        half = np.ascontiguousarray(part).reshape(rows * large, small) @ self._small
        turned: Vectors = half.reshape(rows, large, small).swapaxes(1, 2).reshape(rows * small, large)
        done: Vectors = (turned @ self._large).reshape(rows, self._size)
        return done


def _hadamard(size: int) -> Vectors:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size), np.float32)


def _signs(dim: int, rounds: int, width: int) -> Vectors:
    """±1, (rounds, width), the same for ever: from a hash, since no random generator promises its stream."""
    data = hashlib.shake_256(f"{SEED} {dim}".encode()).digest(-(-rounds * width // 8))
    bits = np.unpackbits(np.frombuffer(data, np.uint8))[: rounds * width].reshape(rounds, width)
    return np.where(bits, np.float32(1), np.float32(-1))


def encode(rotated: Vectors, quantiser: Quantiser) -> Codes:
    """Centroid numbers (n, groups) of rotated rows (n, width), and the governors'."""
    rows, width = rotated.shape
    out = np.full((rows, quantiser.groups(width)), quantiser.governor, np.uint8)
    cells, table = 1 << quantiser.bits, _table(quantiser)
    scale = np.float32(np.sqrt(width) * cells / (2 * _REACH))
    for start in range(0, rows, _ROWS):
        cell = rotated[start : start + _ROWS] * scale
        cell += np.float32(cells / 2)
        np.clip(cell, 0, cells - 1, out=cell)
        at = cell.astype(np.uint16).reshape(len(cell), -1, quantiser.per)
        key: NDArray[Any] = at[..., 0]
        for i in range(1, quantiser.per):
            key = (key << quantiser.bits) | at[..., i]
        out[start : start + _ROWS, :-GOVERNORS] = table[key]
    return out


def decode(codes: Codes, quantiser: Quantiser) -> Vectors:
    """What rows of codes (n, groups) stand for, float32 (n, width)."""
    groups = codes[:, :-GOVERNORS]
    width = groups.shape[1] * quantiser.per
    scaled = quantiser.centroids / np.float32(np.sqrt(width))
    out: Vectors = scaled[groups].reshape(len(codes), width)
    return out


def pack(codes: Codes) -> Codes:
    """Codes (n, groups) as the fast scan wants them: blocks of 32 rows, in each block pair of groups by pair.

    The order inside a pair (FAISS, pq4_fast_scan.cpp) puts rows i and i + 16 in the halves of a byte.
    """
    rows, groups = codes.shape
    if rows % BLOCK:
        codes = np.concatenate([codes, np.zeros((BLOCK - rows % BLOCK, groups), np.uint8)])
    pairs = codes.reshape(-1, BLOCK, groups // 2, 2).transpose(0, 2, 3, 1)
    order = np.arange(16).reshape(2, 8).T.ravel()
    return np.ascontiguousarray(pairs[..., order] | (pairs[..., order + 16] << 4)).reshape(-1)


@cache
def _spread(quantiser: Quantiser, width: int) -> tuple[Vectors, np.float32, np.float32]:
    """The centroids for rows of ``width`` components, how far they reach apart along the first axis, and at all."""
    centroids = quantiser.centroids / np.float32(np.sqrt(width))
    across = np.sqrt(((centroids[:, None] - centroids[None]) ** 2).sum(axis=2).max())
    return centroids, centroids[:, 0].max() - centroids[:, 0].min(), np.float32(across)


def steered(rotated: Vectors, quantiser: Quantiser) -> tuple[Vectors, NDArray[np.float32], NDArray[np.float32]]:
    """Queries (q, width) as the scan takes them, with governors that keep its 16-bit sums from overflowing.

    The scan's tables hold round(a·(entry − least of its group)) with a = 255 / (the widest group's span).

    Returns:
        The queries (q, groups · per); what every estimate then has too much, (q,); and how far an estimate can lie
        from ⟨query, decoded row⟩ by the tables' rounding, (q,): half a step a group.
    """
    count, width = rotated.shape
    centroids, reach, across = _spread(quantiser, width)
    if quantiser.per == 1:
        spans = np.abs(rotated) * across
    else:  # |⟨query, c − d⟩| ≤ ‖query‖‖c − d‖, which is as good: the governor is to be wide enough, no more
        pairs = rotated.reshape(count, -1, quantiser.per)
        spans = np.sqrt(np.einsum("ijk,ijk->ij", pairs, pairs)) * across
    widest = np.maximum(np.maximum(spans.max(axis=1), 1e-4), spans.sum(axis=1) * (255 / (_MOST - 2 * 255)))
    out = np.zeros((count, quantiser.groups(width) * quantiser.per), np.float32)
    out[:, :width] = rotated
    governor = (widest / reach).astype(np.float32)
    out[:, width] = governor
    step = np.maximum(widest, governor * reach) * np.float32(1.001 / 255)
    bound = 0.5 * quantiser.groups(width) * step + 1e-5
    return out, governor * centroids[quantiser.governor, 0], bound.astype(np.float32)


def scale_of(heads: Vectors) -> np.float32:
    """The root mean square norm of rows, which the codebook takes for one; 1 where there is nothing to see."""
    square = float(np.einsum("ij,ij->", heads, heads, dtype=np.float64)) / max(1, len(heads))
    return np.float32(np.sqrt(square)) if square > 1e-12 else np.float32(1)


def excess_norm(rotated: Vectors, codes: Codes, quantiser: Quantiser) -> Vectors:
    """‖row − decoded row‖ of each row, rounded up, float32 (n,)."""
    out = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _ROWS):
        part = slice(start, start + _ROWS)
        difference = rotated[part] - decode(codes[part], quantiser)
        out[part] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return out * np.float32(1 + 1e-5) + np.float32(1e-6)


class CodeWriter:
    """Writes ``coarse.u8``, ``fine.u8`` (packed), ``coarse.crc``, ``fine.crc`` (CRC-32 of every chunk, uint32),
    ``scale.f32`` (of the coarse codes: the norm of the leading components of the first rows) and ``errors.f32`` (of the
    fine codes) beside the rows, as these are written."""

    def __init__(self, folder: Path, dim: int | None) -> None:
        self._dim = dim  # None: rows that need no codes; the files stay empty
        if dim is not None:
            self._leading = leading(dim)
            self._rotations = {COARSE: Rotation(self._leading), FINE: Rotation(dim)}
        self._scale: np.float32 | None = None
        self._files: dict[str, IO[bytes]] = {
            name: open(folder / name, "wb")  # noqa: SIM115 - closed by close()
            for name in ("coarse.u8", "coarse.crc", "fine.u8", "fine.crc", "errors.f32", "scale.f32")
        }
        self._waiting: dict[str, list[Codes]] = {"coarse": [], "fine": []}
        self._rows = 0

    def add(self, vectors: Vectors) -> None:
        if self._dim is None:
            return
        for start in range(0, len(vectors), _ROWS):
            part = vectors[start : start + _ROWS]
            head = np.ascontiguousarray(part[:, : self._leading])
            if self._scale is None:
                self._scale = scale_of(head)
                self._files["scale.f32"].write(np.array([self._scale], "<f4").tobytes())
            coarse = encode(self._rotations[COARSE](head) / self._scale, COARSE)
            rotated = self._rotations[FINE](part)
            fine = encode(rotated, FINE)
            self._waiting["coarse"].append(coarse)
            self._waiting["fine"].append(fine)
            self._files["errors.f32"].write(excess_norm(rotated, fine, FINE).astype("<f4").tobytes())
            self._rows += len(part)
            while self._rows >= CHUNK:
                self._flush(CHUNK)

    def _flush(self, rows: int) -> None:
        for name, parts in self._waiting.items():
            joined = np.concatenate(parts)
            packed = pack(joined[:rows])
            self._files[f"{name}.u8"].write(packed.tobytes())
            self._files[f"{name}.crc"].write(np.array([zlib.crc32(packed.data)], "<u4").tobytes())
            self._waiting[name] = [joined[rows:]]
        self._rows -= rows

    def close(self) -> None:
        if self._rows:
            self._flush(self._rows)
        for stream in self._files.values():
            stream.close()
