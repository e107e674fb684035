"""The weights sketch: a few hundred floats of ΔW, free of factors, rank, format, layout and space (DESIGN §3).

    s_j = Σ over modules with j in their block:  u_jᵀ ΔW v_j,    u_j, v_j ∈ {±1}, drawn from the module's name

Two-sided random projections (Johnson–Lindenstrauss for the vector of all ΔW): ‖s_a − s_b‖² / ``PROBES`` estimates
‖ΔW_a − ΔW_b‖². They are computed from the factors, u_jᵀB · A v_j, never from the dense ΔW, so adapters of any rank,
on any modules of one base model, can be compared. A sketch finds the few that may be the same model; whether they are
is decided on ΔW itself (``lora.equivalence``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.space.layout import TensorKey

SIZE = 256
"""Floats of a sketch."""
PROBES = 16
"""Floats a module adds to: one block of ``SIZE // PROBES``, chosen by its name."""
KIND = "rademacher-256x16"
"""What a stored sketch was made with; sketches of different kinds cannot be compared."""
NEAR = 0.08
"""Relative distance of sketches up to which two models may be the same: rounding to bf16 moves a sketch by 0.003, two
trainings of one person lie at 0.6 and more (mini world)."""
SURELY_NEAR = 0.03
"""Relative distance up to which a sketch is found by another's cells (``near_cells``), not one in two thousand missed;
what is bounded by it lies far nearer."""
_STEPS = 127
_PART = 64
_PARTS = 6
"""A cell is told by the largest of ``_PART`` mixed floats and its sign, so many times (cross-polytope hashing, Andoni
et al. 2015, arXiv 1509.02897)."""
_ROOM = 0.18
"""How much smaller than the largest, in units of their spread, a float may be and be the largest of a near sketch: the
difference of two floats' changes has a standard deviation of √2 times the distance."""
_MOST_CELLS = 64
"""Cells looked into for one sketch; the likeliest, where there would be more."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sketch:
    """``values`` (``SIZE``,) float32; ``norm`` = ‖ΔW‖ (Frobenius, over all modules), exact."""

    values: NDArray[np.float32]
    norm: float


def packed(found: Sketch) -> bytes:
    """A sketch's floats as they are stored: their step (float32) and an int8 of steps each, little-endian.

    Where the floats are of one size, as those of many modules are, rounding moves a sketch by .006 of its norm (.010 in
    the mini world, .018 at most of a thousand), and by .063 whatever they are: less than what two may differ by and be
    looked at (``NEAR``). A stored sketch only names candidates.
    """
    step = np.float32(np.abs(found.values).max(initial=0.0) / _STEPS)
    whole = np.rint(found.values / step) if step > 0 else np.zeros(SIZE)
    whole = np.clip(whole, -_STEPS, _STEPS).astype(np.int8)
    return bytes(np.array([step], "<f4").tobytes() + whole.tobytes())


def unpacked(stored: Sequence[bytes]) -> NDArray[np.float32]:
    """The floats (n, ``SIZE``) of stored sketches, of those that earlier versions stored as float32 too."""
    out = np.empty((len(stored), SIZE), np.float32)
    for row, data in zip(out, stored, strict=True):
        if len(data) == 4 * SIZE:
            row[:] = np.frombuffer(data, "<f4")
        else:
            np.multiply(np.frombuffer(data, np.int8, SIZE, 4), np.frombuffer(data, "<f4", 1), out=row)
    return out


def sketch(tensors: Mapping[TensorKey, NDArray[Any]], alphas: Mapping[str, float]) -> Sketch:
    """Of a LoRA: ``tensors`` by (module, factor), A (r, in…) and B (out, r…); ``alphas`` of every module."""
    (found,) = sketches({key: np.asarray(tensor)[None] for key, tensor in tensors.items()}, alphas)
    return found


def sketches(tensors: Mapping[TensorKey, NDArray[Any]], alphas: Mapping[str, float]) -> list[Sketch]:
    """Of n LoRAs of the same shapes: ``tensors`` by (module, factor), A (n, r, in…) and B (n, out, r…).

    Modules of one shape are taken together: a product a shape, and not a dozen calls a module and LoRA.
    """
    by_shape: dict[tuple[int, int, int], list[str]] = {}
    count = 0
    for module in alphas:
        a, b = tensors[(module, "A")], tensors[(module, "B")]
        count, rank, out = a.shape[0], a.shape[1], b.shape[1]
        by_shape.setdefault((rank, out, a[0, 0].size), []).append(module)
    values, square = np.zeros((count, SIZE // PROBES, PROBES)), np.zeros(count)
    for (rank, out, width), modules in by_shape.items():
        A = np.empty((len(modules), count, rank, width))
        B = np.empty((len(modules), count, out, rank))
        for i, module in enumerate(modules):
            A[i] = tensors[(module, "A")].reshape(count, rank, width)
            B[i] = tensors[(module, "B")].reshape(count, out, rank)
            B[i] *= alphas[module] / rank
        u, v, blocks = _stacked(tuple(modules), out, width)
        right = A.reshape(len(modules), count * rank, width) @ v.transpose(0, 2, 1)
        left = B.swapaxes(2, 3).reshape(len(modules), count * rank, out) @ u.transpose(0, 2, 1)
        parts = (left * right).reshape(len(modules), count, rank, PROBES).sum(axis=2)
        for part, block in zip(parts, blocks, strict=True):
            values[:, block] += part
        square += np.einsum("mnij,mnij->n", B.swapaxes(2, 3) @ B, A @ A.swapaxes(2, 3))
    rows, norms = values.reshape(count, SIZE).astype(np.float32), np.sqrt(np.maximum(square, 0.0))
    return [Sketch(row, float(norm)) for row, norm in zip(rows, norms, strict=True)]


def distance(a: Sketch, b: Sketch) -> float:
    """Estimate of ‖ΔW_a − ΔW_b‖ over the larger norm; 0 when both are nothing."""
    size = max(a.norm, b.norm)
    if size <= 0:
        return 0.0
    gap = np.linalg.norm(a.values.astype(np.float64) - b.values.astype(np.float64))
    return float(gap / (np.sqrt(PROBES) * size))


def cells(sketches: Sequence[Sketch]) -> list[int]:
    """The cell of each sketch, one of 2^42: a number to look it up by, that near sketches share or nearly share."""
    places = _spread(sketches)
    largest = np.abs(places).argmax(axis=2)
    negative = np.take_along_axis(places, largest[:, :, None], axis=2)[:, :, 0] < 0
    return [_cell(row) for row in (2 * largest + negative).tolist()]


def near_cells(sketches: Sequence[Sketch]) -> list[list[int]]:
    """For each sketch the cells in which those lie that are ``NEAR`` it.

    One at that very distance is missed five times in a hundred, one at .05 twice in a thousand and one at .03 not in
    two thousand; rounding to 8-bit floats moves a sketch by .037, to bf16 by .003.
    """
    places = _spread(sketches)
    sizes = np.abs(places)
    gaps = sizes.max(axis=2, keepdims=True) - sizes
    parts: list[list[list[tuple[float, int]]]] = [[[] for _ in range(_PARTS)] for _ in sketches]
    at = np.nonzero(gaps <= _ROOM)
    told = zip(*(index.tolist() for index in at), gaps[at].tolist(), (places[at] < 0).tolist(), strict=True)
    for row, part, place, gap, negative in told:
        parts[row][part].append((gap, 2 * place + negative))
    found = []
    for of in parts:
        _keep_likeliest(of)
        every = [0]
        for part in of:
            every = [number * 2 * _PART + place for number in every for _, place in part]
        found.append(every)
    return found


def _keep_likeliest(parts: list[list[tuple[float, int]]]) -> None:
    """Leave out the places with the widest gaps until at most ``_MOST_CELLS`` combinations are left."""
    count = math.prod(map(len, parts))
    if count > _MOST_CELLS:
        for gap, number, place in sorted(((g, i, p) for i, part in enumerate(parts) for g, p in part), reverse=True):
            before = len(parts[number])
            if before > 1:
                parts[number].remove((gap, place))
                count = count // before * (before - 1)
            if count <= _MOST_CELLS:
                return


def _cell(places: Sequence[int]) -> int:
    number = 0
    for place in places:
        number = number * 2 * _PART + place
    return number


def _spread(sketches: Sequence[Sketch]) -> Array:
    """The floats of each sketch mixed so that every module adds to all of them, of variance about one:
    (n, ``_PARTS``, ``_PART``)."""
    values = np.array([one.values for one in sketches], np.float64).reshape(len(sketches), SIZE)
    norms = np.array([max(one.norm, 1e-300) for one in sketches])
    mixed = values @ _mixers() * np.sqrt(SIZE / PROBES) / norms[:, None]
    return np.asarray(mixed.reshape(len(sketches), _PARTS, _PART))


@lru_cache(maxsize=1)
def _mixers() -> Array:
    """Columns of two orthonormal Hadamard matrices of random signs, (``SIZE``, ``_PARTS`` · ``_PART``)."""
    stream = hashlib.shake_256(f"w2w sketch {KIND} cells".encode()).digest(2 * SIZE // 8)
    signs = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(2, SIZE, 1) * 2.0 - 1.0
    matrix = np.ones((1, 1))
    while len(matrix) < SIZE:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(np.concatenate(signs * matrix, axis=1)[:, : _PARTS * _PART] / np.sqrt(SIZE))


@lru_cache(maxsize=64)
def _stacked(modules: tuple[str, ...], out: int, width: int) -> tuple[Array, Array, NDArray[np.intp]]:
    """The probes of modules of one shape: u (m, ``PROBES``, out), v (m, ``PROBES``, in), and their blocks (m,)."""
    u, v, blocks = zip(*(_probes(module, out, width) for module in modules), strict=True)
    return np.stack(u), np.stack(v), np.array(blocks)


def _probes(module: str, out: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """±1 probes u (``PROBES``, out), v (``PROBES``, in) and the block of a module, from SHAKE-256 of name and shape,
    so that they are the same on every machine."""
    count = PROBES * (out + width)
    stream = hashlib.shake_256(f"w2w sketch {KIND} {module} {out} {width}".encode()).digest(4 + -(-count // 8))
    signs = np.unpackbits(np.frombuffer(stream[4:], np.uint8))[:count].astype(np.float64) * 2.0 - 1.0
    block = int.from_bytes(stream[:4], "little") % (SIZE // PROBES)
    return signs[: PROBES * out].reshape(PROBES, out), signs[PROBES * out :].reshape(PROBES, width), block
