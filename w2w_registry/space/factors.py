"""Factors of a module's ΔW = B A: the best ones of a rank, and those a canonical gauge writes (DESIGN §3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SINGULAR = 0.02
"""Least cosine between a module's A and A₀ that a canonical gauge takes: G is at most its inverse."""

_RANK = 1e-5  # of the largest singular value of ΔW: smaller ones are the rounding of fp32 factors


def best_factors(A: Array, B: Array, rank: int) -> tuple[Array, Array, float, float]:
    """ΔW = B A as columns · rows, of A (r, in) and B (out, r): the best of rank ``rank`` or less (Eckart–Young).

    Returns:
        rows (q, in), orthonormal; columns (out, q), orthogonal; ‖what was cut‖² and ‖ΔW‖². q is 0 when ΔW is.
    """
    left, right = np.linalg.qr(B), np.linalg.qr(A.T)
    u, s, wt = np.linalg.svd(left.R @ right.R.T)
    kept = int(np.sum(s > _RANK * s[0])) if len(s) and s[0] > 0 else 0
    kept = min(rank, kept)
    return (
        wt[:kept] @ right.Q.T,
        (left.Q @ u[:, :kept]) * s[:kept],
        float(np.sum(s[kept:] ** 2)),
        float(np.sum(s**2)),
    )


def canonical_pair(rows: Array, columns: Array, reference: Array) -> tuple[Array, Array, float]:
    """A' (r, in) and B' (out, r) of ΔW = columns · rows against A₀ = ``reference`` (r, in).

    ``rows`` (q ≤ r, in) are orthonormal.

    What q < r rows leave open reads where A₀ does and writes nothing.

    Returns:
        A', B', and the least cosine between the rows and A₀'s row space (1 without rows).
    """
    q, r = len(rows), len(reference)
    own = np.linalg.qr(reference.T)
    u, cosines, _ = np.linalg.svd(own.Q.T @ rows.T)
    if q < r:
        rows = np.vstack([rows, u[:, q:].T @ own.Q.T])
        columns = np.hstack([columns, np.zeros((len(columns), r - q))])
    seen = rows @ reference.T
    square = reference @ reference.T
    least = float(cosines.min()) if len(cosines) else 1.0
    turn = np.linalg.solve(seen, rows) if least >= SINGULAR else np.linalg.lstsq(seen, rows, rcond=None)[0]
    return square @ turn, np.asarray(np.linalg.solve(square, (columns @ seen).T).T), least


def complement(rows: Array, count: int) -> Array:
    """``count`` orthonormal rows orthogonal to ``rows`` (r, n), always the same ones; zeros once n is used up."""
    n = rows.shape[1]
    found = np.zeros((0, n))
    for i in range(n):
        if len(found) == count:
            break
        axis = np.zeros(n)
        axis[i] = 1.0
        known = np.vstack([rows, found])
        for _ in range(2):  # once more for the rounding the first pass leaves
            axis = axis - (axis @ known.T) @ known
        size = float(np.linalg.norm(axis))
        if size > 0.1:
            found = np.vstack([found, axis / size])
    return np.vstack([found, np.zeros((count - len(found), n))])


def flat(array: Array) -> Array:
    return array.reshape(array.shape[0], -1)
