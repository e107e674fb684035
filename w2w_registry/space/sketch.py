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
        parts = np.array_split(self.values.astype(np.float64), KEYS)
        return tuple(float(part.sum() / (self.norm * np.sqrt(SIZE / KEYS))) for part in parts)


def sketch(tensors: Mapping[TensorKey, NDArray[Any]], alphas: Mapping[str, float]) -> Sketch:
    """Of a LoRA: ``tensors`` by (module, factor), A (r, in…) and B (out, r…); ``alphas`` of every module."""
    values = np.zeros(SIZE)
    square = 0.0
    for module, alpha in alphas.items():
        A, B = (np.asarray(tensors[(module, f)], np.float64) for f in ("A", "B"))
        A, B = A.reshape(A.shape[0], -1), B.reshape(B.shape[0], -1)
        scale = alpha / A.shape[0]
        u, v, block = _probes(module, B.shape[0], A.shape[1])
        values[block * PROBES : (block + 1) * PROBES] += scale * np.einsum("pr,rp->p", u @ B, A @ v.T)
        square += scale**2 * max(0.0, float(np.sum((B.T @ B) * (A @ A.T))))
    return Sketch(values.astype(np.float32), float(np.sqrt(square)))


def distance(a: Sketch, b: Sketch) -> float:
    """Estimate of ‖ΔW_a − ΔW_b‖ over the larger norm; 0 when both are nothing."""
    size = max(a.norm, b.norm)
    if size <= 0:
        return 0.0
    gap = np.linalg.norm(a.values.astype(np.float64) - b.values.astype(np.float64))
    return float(gap / (np.sqrt(PROBES) * size))


@lru_cache(maxsize=1024)
def _probes(module: str, out: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """±1 probes u (``PROBES``, out), v (``PROBES``, in) and the block of a module, from SHAKE-256 of name and shape,
    so that they are the same on every machine."""
    count = PROBES * (out + width)
    stream = hashlib.shake_256(f"w2w sketch {KIND} {module} {out} {width}".encode()).digest(4 + -(-count // 8))
    signs = np.unpackbits(np.frombuffer(stream[4:], np.uint8))[:count].astype(np.float64) * 2.0 - 1.0
    block = int.from_bytes(stream[:4], "little") % (SIZE // PROBES)
    return signs[: PROBES * out].reshape(PROBES, out), signs[PROBES * out :].reshape(PROBES, width), block
