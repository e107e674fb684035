"""The weights sketch: a few hundred floats of ΔW, free of factors, rank, format, layout and space (DESIGN §3).

    s_j = Σ over modules with j in their block:  u_jᵀ ΔW v_j,    u_j, v_j ∈ {±1}, drawn from the module's name

Two-sided random projections (Johnson–Lindenstrauss for the vector of all ΔW): ‖s_a − s_b‖² / ``PROBES`` estimates
‖ΔW_a − ΔW_b‖². They are computed from the factors, u_jᵀB · A v_j, never from the dense ΔW, so adapters of any rank,
on any modules of one base model, can be compared. A sketch finds the few that may be the same model; whether they are
is decided on ΔW itself (``lora.equivalence``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
KEYS = 3
"""Leading scaled floats that are stored as numbers of their own, for a database to search by."""

_PARTS = [part[0] for part in np.array_split(np.arange(SIZE), KEYS)]  # where each key's part begins

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sketch:
    """``values`` (``SIZE``,) float32; ``norm`` = ‖ΔW‖ (Frobenius, over all modules), exact."""

    values: NDArray[np.float32]
    norm: float

    def keys(self) -> tuple[float, ...]:
        """``KEYS`` numbers that equal models share but for ``NEAR``: block sums over the norm."""
        if self.norm <= 0:
            return (0.0,) * KEYS
        sums = np.add.reduceat(self.values.astype(np.float64), _PARTS) / (self.norm * np.sqrt(SIZE / KEYS))
        return tuple(sums.tolist())


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
