"""Short codes of unit vectors: rotate, then quantise every few components with a codebook that fits any data.

A random rotation makes the components of any unit vector in D dimensions near Gaussian with variance 1/D, so one
codebook for Gaussians serves every space: nothing is trained on users' data and nothing drifts as rows are added. Two
codes are kept, each 16 centroids a group, in the layout of FAISS's fast scan (André et al., "Cache locality is not
enough", VLDB 2015; Guo et al., ICML 2020 for the scan of 4-bit codes by table look-ups in registers):

    coarse  2 components a group, 2 bits each, of the leading half of the components: finds candidates, whose stored
            vectors then decide
    fine    1 component a group, 4 bits each, of the leading half, and 2 bits each of the rest: small enough an error to
            prove that a row is not worth reading

A scan costs what it reads. Coordinates come by falling variance, and among strangers the spread of a score goes with
the squared variances, so that bits spent on the trailing half tell little: of as many bits, two on each leading
component leave about half the candidates that one on every component leaves, and no more where the spectrum is flat
(measured at 10⁵ rows of 1,000 components: docs/benchmarks.md). For the same reason the trailing half has the shorter
fine codes: with four bits on every component a scan takes twice as long, and what it excludes more, a few hundred rows,
is read in a twentieth of that.

One more pair of groups, the governor, holds the same code in every row, the largest. The scan adds 8-bit table entries
in 16 bits, scaled by the widest group alone; for wide vectors or a query of even components the sum would overflow,
silently. A query that puts a large value in the governor widens that scale as far as needed (see ``steered``).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
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

    per: int
    bits: int
    centroids: Vectors


@dataclass(frozen=True)
class Code:
    """A row's code: runs of components, each with its quantiser and its width, one after another."""

    name: str
    parts: tuple[tuple[Quantiser, int], ...]

    @property
    def per(self) -> int:
        """Components a group has room for; a quantiser of fewer leaves the rest zero."""
        return max(quantiser.per for quantiser, _ in self.parts)

    @property
    def governor(self) -> int:
        """The code every row has there: the largest, so that a row's sum is never zero, which the scan passes over."""
        return int(self.parts[0][0].centroids[:, 0].argmax())

    @property
    def groups(self) -> int:
        """Groups of a row, governors included."""
        return sum(width // quantiser.per for quantiser, width in self.parts) + GOVERNORS

    @property
    def row_bytes(self) -> int:
        return self.groups // 2

    def runs(self) -> Iterator[tuple[Quantiser, slice, slice]]:
        """Of each part its quantiser, its components among a row's, and its groups among a code's."""
        at, group = 0, 0
        for quantiser, width in self.parts:
            yield quantiser, slice(at, at + width), slice(group, group + width // quantiser.per)
            at, group = at + width, group + width // quantiser.per

    def centroids(self) -> Vectors:
        """What each group's codes stand for, float32 (groups, 16, per); the governors' are those of the first part."""
        out = np.zeros((self.groups, 16, self.per), np.float32)
        for quantiser, at, groups in self.runs():
            out[groups, :, : quantiser.per] = quantiser.centroids / np.float32(np.sqrt(at.stop - at.start))
        out[-GOVERNORS:] = out[0]
        return out


# The best 16 points for a standard Gaussian, by Lloyd's iteration on its density: in one dimension (mean square error
# 0.0095; Max 1960, Table I) and in two (0.1075 a component, the best of 60 starts).
_ONE = (0.12848, 0.38829, 0.65712, 0.94278, 1.25671, 1.61854, 2.06950, 2.73302)
_TWO = (
    (-0.3517, 0.8223), (1.2195, 1.5899), (1.8203, 0.4302), (0.3761, -0.8711),
    (-1.5789, -0.9925), (-0.5245, -1.7830), (-0.0619, 1.8652), (0.5768, 0.7672),
    (-0.0025, 0.0061), (-1.2850, 1.3593), (-1.9864, 0.2541), (-0.9515, 0.1136),
    (-0.5317, -0.7122), (1.6430, -0.8765), (0.7709, -1.8447), (0.8850, -0.1026),
)  # fmt: skip
SINGLES = Quantiser(1, 12, np.array([*(-x for x in reversed(_ONE)), *_ONE], np.float32)[:, None])
PAIRS = Quantiser(2, 7, np.array(_TWO, np.float32))


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


class Turns:
    """The rotations of rows of ``dim`` components, one of the leading and one of the others, and the two codes."""

    def __init__(self, dim: int) -> None:
        self._leading = leading(dim)
        self._maps = [Rotation(part) for part in (self._leading, dim - self._leading) if part]
        widths = [turn.width for turn in self._maps]
        self.coarse = Code("coarse", ((PAIRS, widths[0]),))
        self.fine = Code("fine", tuple(zip((SINGLES, PAIRS), widths, strict=False)))

    def parts(self, vectors: Vectors) -> list[Vectors]:
        """Rows (n, dim) as the rotated leading components (n, width) and, where there are others, those."""
        others = [turn(np.ascontiguousarray(vectors[:, self._leading :])) for turn in self._maps[1:]]
        return [self.heads(vectors), *others]

    def heads(self, vectors: Vectors) -> Vectors:
        """The rotated leading components alone."""
        return self._maps[0](np.ascontiguousarray(vectors[:, : self._leading]))


def encode(rotated: Vectors, code: Code) -> Codes:
    """Centroid numbers (n, groups) of rotated rows (n, components), and the governors'."""
    out = np.full((len(rotated), code.groups), code.governor, np.uint8)
    for quantiser, at, groups in code.runs():
        cells, table = 1 << quantiser.bits, _table(quantiser)
        scale = np.float32(np.sqrt(at.stop - at.start) * cells / (2 * _REACH))
        for start in range(0, len(rotated), _ROWS):
            cell = rotated[start : start + _ROWS, at] * scale
            cell += np.float32(cells / 2)
            np.clip(cell, 0, cells - 1, out=cell)
            whole = cell.astype(np.uint16).reshape(len(cell), -1, quantiser.per)
            key: NDArray[Any] = whole[..., 0]
            for i in range(1, quantiser.per):
                key = (key << quantiser.bits) | whole[..., i]
            out[start : start + _ROWS, groups] = table[key]
    return out


def decode(codes: Codes, code: Code) -> Vectors:
    """What rows of codes (n, groups) stand for, float32 (n, components)."""
    found = []
    for quantiser, at, groups in code.runs():
        scaled = quantiser.centroids / np.float32(np.sqrt(at.stop - at.start))
        found.append(scaled[codes[:, groups]].reshape(len(codes), -1))
    out: Vectors = np.concatenate(found, axis=1)
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
def _reaches(quantiser: Quantiser, width: int) -> tuple[np.float32, np.float32]:
    """How far the centroids for ``width`` components reach apart along the first axis, and at all."""
    centroids = quantiser.centroids / np.float32(np.sqrt(width))
    across = np.sqrt(((centroids[:, None] - centroids[None]) ** 2).sum(axis=2).max())
    return centroids[:, 0].max() - centroids[:, 0].min(), np.float32(across)


def steered(rotated: Vectors, code: Code) -> tuple[Vectors, NDArray[np.float32], NDArray[np.float32]]:
    """Queries (q, components) as the scan takes them, with governors that keep its 16-bit sums from overflowing.

    The scan's tables hold round(a·(entry − least of its group)) with a = 255 / (the widest group's span).

    Returns:
        The queries (q, groups · per); what every estimate then has too much, (q,); and how far an estimate can lie
        from ⟨query, decoded row⟩ by the tables' rounding, (q,): half a step a group.
    """
    count = len(rotated)
    out = np.zeros((count, code.groups, code.per), np.float32)
    widest: Any = 1e-4
    total: Any = 0.0
    for quantiser, at, groups in code.runs():
        _, across = _reaches(quantiser, at.stop - at.start)
        part = rotated[:, at].reshape(count, -1, quantiser.per)
        if quantiser.per == 1:
            spans = np.abs(part[..., 0]) * across
        else:  # |⟨query, c − d⟩| ≤ ‖query‖‖c − d‖, which is as good: the governor is to be wide enough, no more
            spans = np.sqrt(np.einsum("ijk,ijk->ij", part, part)) * across
        widest, total = np.maximum(widest, spans.max(axis=1)), total + spans.sum(axis=1)
        out[:, groups, : quantiser.per] = part
    widest = np.maximum(widest, total * (255 / (_MOST - 2 * 255)))
    first, width = code.parts[0]
    reach, _ = _reaches(first, width)
    governor = (widest / reach).astype(np.float32)
    out[:, -GOVERNORS, 0] = governor
    step = np.maximum(widest, governor * reach) * np.float32(1.001 / 255)
    bound = 0.5 * code.groups * step + 1e-5
    excess = governor * (first.centroids[code.governor, 0] / np.float32(np.sqrt(width)))
    return out.reshape(count, -1), excess, bound.astype(np.float32)


def scale_of(heads: Vectors) -> np.float32:
    """The root mean square norm of rows, which the codebook takes for one; 1 where there is nothing to see."""
    square = float(np.einsum("ij,ij->", heads, heads, dtype=np.float64)) / max(1, len(heads))
    return np.float32(np.sqrt(square)) if square > 1e-12 else np.float32(1)


def excess_norm(rotated: Vectors, codes: Codes, code: Code, scales: Vectors) -> Vectors:
    """‖row − decoded row‖ of each row, rounded up, float32 (n,); ``rotated`` (n, components) are rows whose every part
    was divided by its scale."""
    out = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _ROWS):
        chosen = slice(start, start + _ROWS)
        difference = rotated[chosen] - decode(codes[chosen], code)
        for (_, at, _), scale in zip(code.runs(), scales, strict=True):
            difference[:, at] *= scale
        out[chosen] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return out * np.float32(1 + 1e-5) + np.float32(1e-6)


class CodeWriter:
    """Writes ``coarse.u8``, ``fine.u8`` (packed), ``coarse.crc``, ``fine.crc`` (CRC-32 of every chunk, uint32),
    ``scale.f32`` (the norm of the leading components of the first rows, and that of the others where there are any) and
    ``errors.f32`` (of the fine codes) beside the rows, as these are written."""

    def __init__(self, folder: Path, dim: int | None) -> None:
        self._turns = None if dim is None else Turns(dim)  # None: rows that need no codes; the files stay empty
        self._scales: Vectors | None = None
        self._files: dict[str, IO[bytes]] = {
            name: open(folder / name, "wb")  # noqa: SIM115 - closed by close()
            for name in ("coarse.u8", "coarse.crc", "fine.u8", "fine.crc", "errors.f32", "scale.f32")
        }
        self._waiting: dict[str, list[Codes]] = {"coarse": [], "fine": []}
        self._rows = 0

    def add(self, vectors: Vectors) -> None:
        if self._turns is None:
            return
        for start in range(0, len(vectors), _ROWS):
            parts = self._turns.parts(vectors[start : start + _ROWS])
            if self._scales is None:
                self._scales = np.array([scale_of(part) for part in parts], np.float32)
                self._files["scale.f32"].write(self._scales.astype("<f4").tobytes())
            scaled = [part / scale for part, scale in zip(parts, self._scales, strict=True)]
            rotated = np.concatenate(scaled, axis=1)
            fine = encode(rotated, self._turns.fine)
            self._waiting["coarse"].append(encode(scaled[0], self._turns.coarse))
            self._waiting["fine"].append(fine)
            errors = excess_norm(rotated, fine, self._turns.fine, self._scales)
            self._files["errors.f32"].write(errors.astype("<f4").tobytes())
            self._rows += len(rotated)
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
