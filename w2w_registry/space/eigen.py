"""The largest eigenvalues of M = Σ pᵀp over pieces p: M whole while it fits, else block Lanczos, which never forms it.

Block Lanczos keeps every block (full orthogonalisation) and takes Ritz pairs of all of them: Golub & Underwood (1977);
its convergence for the leading part from a random start, Musco & Musco (NeurIPS 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from w2w_registry.space.rows import to_numpy

_WHOLE = 1536  # side up to which all eigenvectors are found at once
_MARGIN = 4.0  # how much the share missed is overestimated, as it is a first-order estimate
_STEPS = 64
_PANEL = 8  # blocks kept side by side
_ROWS = 1 << 12  # that are combined at once
_FURTHER = 4  # blocks between two looks at most
_DEPENDENT = 1e-5  # part of the largest column that must be left of each, once those before it are taken away


@dataclass(frozen=True, eq=False)
class Leading:
    """``values`` (k,) falling and ``vectors`` (m, k) of the k largest. ``missed``: estimated share of the sum of the
    true k largest values that these do not reach; 0 when found from M whole."""

    values: NDArray[np.float64]
    vectors: Any
    missed: float
    steps: int


def leading(matrix: NDArray[np.float64], wanted: int, tolerance: float, seed: int) -> Leading:
    """Of a symmetric matrix (m, m) that is held, numpy or torch float64."""
    xp = array_api_compat.array_namespace(matrix)
    m = matrix.shape[0]
    if m <= _WHOLE or wanted * 4 > m:
        values, vectors = xp.linalg.eigh(matrix)
        # eigh gives rising values: take the last ones, turned round.
        top = np.ascontiguousarray(to_numpy(values)[::-1][:wanted], np.float64)
        return Leading(top, xp.flip(vectors[:, m - wanted :], axis=1), 0.0, 0)
    place = array_api_compat.device(matrix)
    # What rounding to float32 takes from M is no more than making it did.
    held = xp.astype(matrix, xp.float32)
    # A processor multiplies narrow blocks as fast, and they need fewer columns in all; a card would wait for work.
    width = width_of(wanted) // (2 if getattr(place, "type", "cpu") == "cpu" else 1)
    return lanczos(xp, lambda block: held @ block, m, wanted, max(16, width), tolerance, seed, xp.float32, place)


def width_of(wanted: int) -> int:
    """Columns of a block: narrow blocks need less work in all, wide ones fewer passes over the data."""
    return max(16, wanted // 4)


def lanczos(
    xp: Any,
    apply: Callable[[Any], Any],
    size: int,
    wanted: int,
    width: int,
    tolerance: float,
    seed: int,
    dtype: Any,
    device: Any,
) -> Leading:
    """The ``wanted`` largest eigenpairs of a positive M (size, size) known by ``apply``: block (size, b) → M block.

    Args:
        width: b. Narrow blocks need less work in all, wide ones fewer calls of ``apply``.
        tolerance: goes on until the estimated missed share of the sum is below it.

    The estimate is that of each Ritz value's error, ‖r‖²/gap, with the gap to the values just left out.
    """
    start = np.random.default_rng(seed).standard_normal((size, min(width, size)))
    block, _ = xp.linalg.qr(apply(xp.asarray(start, dtype=dtype, device=device)))
    basis = _Basis(xp, block)
    small = np.zeros((0, 0))
    # At how many blocks to look, as each look solves the problem of all their columns; one alone foretells too little.
    look = max(2, -(-2 * wanted // block.shape[1]))
    while True:
        image = apply(basis.recent[-1])
        # In exact arithmetic only the last two blocks have a share (M is symmetric); then once more against all.
        first, image = _apart(xp, image, basis.recent)
        second, image = _apart(xp, image, basis.panels)
        second[len(second) - len(first) :] += first
        small = _bordered(small, second)
        following, rest = _qr(xp, image)
        if len(small) < size and basis.blocks < min(look, _STEPS):
            _, following = _apart(xp, following[:, : size - len(small)], basis.panels)
            basis.add(_orthonormal(xp, following))
            continue
        rising, vectors = _eigh(xp, small, device)
        values, vectors = rising[::-1], vectors[:, ::-1]
        held, newest = len(values), basis.recent[-1].shape[1]
        if held >= min(wanted, size):
            last = to_numpy(rest).astype(np.float64) @ vectors[held - newest :, :wanted]
            missed = 0.0 if held == size else _missed(values, np.linalg.norm(last, axis=0), wanted)
            if missed <= tolerance or basis.blocks >= _STEPS:
                chosen = xp.asarray(np.ascontiguousarray(vectors[:, :wanted]), dtype=dtype, device=device)
                return Leading(values[:wanted].copy(), _combined(xp, basis.panels, chosen), missed, basis.blocks)
            look = basis.blocks + _further(missed, tolerance, block.shape[1] / wanted)
        # What is left of an image that M maps to nothing new is rounding: its directions need not be new ones.
        _, following = _apart(xp, following[:, : size - held], basis.panels)
        basis.add(_orthonormal(xp, following))


def _qr(xp: Any, block: Any) -> tuple[Any, Any]:
    """Q and R of a block whose Q is made orthonormal later on: by Cholesky in float64, a ninth of a factorisation's
    time, where the columns are far enough from dependent (Yamamoto et al. 2015)."""
    wide = xp.astype(block, xp.float64)
    try:
        root = xp.linalg.cholesky(xp.matrix_transpose(wide) @ wide)
        sizes = to_numpy(xp.linalg.diagonal(root))
    except (np.linalg.LinAlgError, RuntimeError):  # torch's error is a RuntimeError
        sizes = np.zeros(1)
    if not sizes.min() > _DEPENDENT * sizes.max():
        orthonormal, rest = xp.linalg.qr(block)
        return orthonormal, rest
    return block @ xp.astype(xp.matrix_transpose(xp.linalg.inv(root)), block.dtype), xp.matrix_transpose(root)


class _Basis:
    """The blocks found so far, eight beside each other in one array: a product with a narrow block alone takes up to
    three times as long a number (4,000 rows, blocks of 50; measured)."""

    def __init__(self, xp: Any, block: Any) -> None:
        self._xp, self._columns, self.blocks = xp, 0, 0
        self._arrays: list[Any] = []
        self.recent: list[Any] = []
        self.add(block)

    def add(self, block: Any) -> None:
        """One more block (size, b), no wider than the first."""
        size, width = block.shape
        if self.blocks % _PANEL == 0:
            place = array_api_compat.device(block)
            self._arrays.append(self._xp.empty((size, _PANEL * width), dtype=block.dtype, device=place))
            self._columns = 0
        self._arrays[-1][:, self._columns : self._columns + width] = block
        self._columns += width
        self.blocks += 1
        self.recent = [*self.recent[-1:], block]

    @property
    def panels(self) -> list[Any]:
        """All of them, side by side, (size, m) each."""
        return [*self._arrays[:-1], self._arrays[-1][:, : self._columns]]


def _orthonormal(xp: Any, block: Any) -> Any:
    """Orthonormal columns of the span of a block. Where it is nearly orthonormal, one step of Newton and Schulz is
    enough: it leaves three quarters of the square of what was off."""
    off = xp.matrix_transpose(block) @ block
    off = off - xp.eye(off.shape[0], dtype=off.dtype, device=array_api_compat.device(block))
    if float(xp.linalg.vector_norm(off)) <= float(xp.finfo(block.dtype).eps) ** 0.5:
        return block - block @ off / 2
    return xp.linalg.qr(block)[0]


def _eigh(xp: Any, small: NDArray[np.float64], device: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rising eigenvalues and eigenvectors in float64: on the card where the rest is on one, else (and where the card's
    library gives up) by numpy."""
    if getattr(device, "type", "cpu") != "cpu":
        try:
            values, vectors = xp.linalg.eigh(xp.asarray(small, dtype=xp.float64, device=device))
            found = to_numpy(values), to_numpy(vectors)
        except RuntimeError:  # torch's error for one that does not converge, or for want of memory
            found = np.zeros(0), np.zeros((0, 0))
        if found[0].size and np.isfinite(found[0]).all() and np.isfinite(found[1]).all():
            return found
    return np.linalg.eigh(small)


def _apart(xp: Any, image: Any, blocks: list[Any]) -> tuple[NDArray[np.float64], Any]:
    """What of ``image`` lies along the blocks, as coefficients, and what is left of it."""
    shares = []
    for block in blocks:
        share = xp.matrix_transpose(block) @ image
        image = image - block @ share
        shares.append(share)
    return to_numpy(xp.concat(shares, axis=0)).astype(np.float64), image  # one copy from a card, and not one a block


def _combined(xp: Any, blocks: list[Any], chosen: Any) -> Any:
    """The columns of all blocks, combined by ``chosen`` (m, k), some rows at a time: (size, k)."""
    found = xp.empty((blocks[0].shape[0], chosen.shape[1]), dtype=chosen.dtype, device=array_api_compat.device(chosen))
    for first in range(0, len(found), _ROWS):
        part, start = None, 0
        for block in blocks:
            share = block[first : first + _ROWS] @ chosen[start : start + block.shape[1], :]
            part = share if part is None else part + share
            start += block.shape[1]
        found[first : first + _ROWS] = part
    return found


def _bordered(small: NDArray[Any], column: NDArray[Any]) -> NDArray[Any]:
    """Bᵀ M B with one more block: its column (held + b, b); the rows below the diagonal by symmetry."""
    held, width = len(small), column.shape[1]
    out = np.empty((held + width, held + width))
    out[:held, :held] = small
    out[:, held:] = column
    out[held:, :held] = column[:held].T
    out[held:, held:] = (column[held:] + column[held:].T) / 2
    return out


def _further(missed: float, tolerance: float, share: float) -> int:
    """How many further blocks, each a ``share`` of the components wide, leave ``tolerance`` if what is missed falls as
    it does for spectra like ours: to a quarter by every eighth of the components (measured)."""
    if not tolerance < missed < 1:
        return 1
    return min(_FURTHER, math.ceil(math.log(missed / max(tolerance, 1e-12), 4) / (8 * share)))


def _missed(values: NDArray[Any], residuals: NDArray[Any], wanted: int) -> float:
    if len(values) <= wanted:
        return float("inf")
    beyond = values[min(len(values) - 1, wanted + (len(values) - wanted) // 2)]
    gap = np.maximum(values[:wanted] - beyond, 1e-30)
    errors = np.minimum(residuals, residuals**2 / gap)
    return float(_MARGIN * errors.sum() / values[:wanted].sum())
