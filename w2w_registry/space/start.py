"""The start of a space's LoRAs: the reference A₀ of a canonical gauge, found from a fit set (DESIGN §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space.factors import SINGULAR, best_factors, canonical_pair
from w2w_registry.space.layout import Layout

Array = NDArray[np.float64]

SHARED_START = 0.25
"""Least agreement of a fit set's members (:func:`common_start`). Random starts agree at 0 ± a few hundredths, the mini
world's LoRAs at 0.95."""
FOREIGN_START = 0.1
"""Agreement with A₀ below which a LoRA started elsewhere. The mini world's agree at 0.9 and more."""

_ENOUGH = 256  # members that say what the common start is


@dataclass(frozen=True, eq=False)
class Start:
    """A reference A₀: ``values`` (D_A,) float32, A's numbers of every module in layout order.

    ``agreement``: how far the LoRAs it was found from share a start: mean squared cosine between pairs of them over the
    modules (median), with chance taken off: 1 for one start, about 0 for starts of their own.
    """

    values: NDArray[np.float32]
    agreement: float


def canonical_rows(thetas: ArrayLike, layout: Layout, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """θ (n, D) float32 of LoRAs of this layout, each written with A₀ = ``start`` (D_A,); whether they share it is not
    asked."""
    raw = np.asarray(thetas, np.float32)
    out = np.empty_like(raw)
    places = {tensor.key: (tensor, part) for tensor, part in layout.slices()}
    for module, reference in start_tensors(start, layout).items():
        (a, at_a), (_, at_b) = places[(module, "A")], places[(module, "B")]
        A = raw[:, at_a].astype(np.float64).reshape(len(raw), a.rank, -1)
        B = raw[:, at_b].astype(np.float64).reshape(len(raw), -1, a.rank)
        new_a, new_b = one_column(A, B, reference) if a.rank == 1 else _columns(A, B, reference)
        out[:, at_a], out[:, at_b] = new_a.reshape(len(raw), -1), new_b.reshape(len(raw), -1)
    return out


def common_start(thetas: ArrayLike, layout: Layout) -> Start:
    """The reference A₀ of a fit set, θ (n, D): the directions its members' A read most in common.

    They are the leading eigenvectors of the mean projection on the members' row spaces, at the members' median size. No
    regauging of a member turns them, and a member of another start, whose canonical A would be long and outweigh the
    others in a mean, hardly does.
    """
    raw = np.asarray(thetas, np.float32)
    some = np.unique(np.linspace(0, len(raw) - 1, min(len(raw), _ENOUGH)).astype(int))
    values, agreements = [], []
    places = {tensor.key: (tensor, part) for tensor, part in layout.slices()}
    for module in layout.modules:
        tensor, part = places[(module, "A")]
        A = raw[some, part].astype(np.float64).reshape(len(some), tensor.rank, -1)
        first, agreement = _leading(A)
        values.append((first * float(np.median(np.linalg.norm(A, axis=(1, 2))) / np.sqrt(tensor.rank))).reshape(-1))
        agreements.append(agreement)
    return Start(np.concatenate(values).astype(np.float32), float(np.median(agreements)))


def shares_start(thetas: ArrayLike, layout: Layout, start: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of θ (n, D) were trained from A₀ = ``start`` (D_A,), so that :func:`to_gauge` takes them: (n,)."""
    raw = np.asarray(thetas, np.float32)
    places = {tensor.key: part for tensor, part in layout.slices()}
    agreement = np.full((len(raw), len(layout.modules)), np.nan)
    least = np.ones(len(raw))
    for m, (module, reference) in enumerate(start_tensors(start, layout).items()):
        r, width = reference.shape
        A = raw[:, places[(module, "A")]].astype(np.float64).reshape(len(raw), r, width)
        acts = np.any(raw[:, places[(module, "B")]], axis=1) & np.any(A, axis=(1, 2))
        if not acts.any():
            continue
        cosines = np.linalg.svd(np.linalg.qr(A[acts].transpose(0, 2, 1)).Q.transpose(0, 2, 1) @ _axes(reference))[1]
        agreement[acts, m] = [above_chance(float(c @ c) / r, r, width) for c in cosines]
        least[acts] = np.minimum(least[acts], cosines.min(axis=1))
    idle = np.isnan(agreement).all(axis=1)
    agreement[idle] = 1.0
    return np.asarray((np.nanmedian(agreement, axis=1) >= FOREIGN_START) & (least >= SINGULAR))


def start_size(layout: Layout) -> int:
    """D_A: how many numbers a reference A₀ has."""
    return sum(tensor.size for tensor in layout.tensors if tensor.factor == "A")


def start_tensors(start: NDArray[Any], layout: Layout) -> dict[str, Array]:
    """A₀ (r, in) float64 by module, of ``start`` (D_A,)."""
    found, place = {}, 0
    for tensor in layout.tensors:
        if tensor.factor == "A":
            found[tensor.module] = np.asarray(start[place : place + tensor.size], np.float64).reshape(tensor.rank, -1)
            place += tensor.size
    return found


def one_column(A: Array, B: Array, reference: Array) -> tuple[Array, Array]:
    """Rank 1, all members at once: A (n, 1, in), B (n, out, 1); a module that does nothing reads where A₀ does."""
    size = float(np.sum(reference**2))
    scale = np.einsum("nri,ri->n", A, reference)[:, None, None] / size
    idle = ~np.any(B, axis=(1, 2)) | (scale[:, 0, 0] == 0)
    scale[idle] = 1.0
    new_a, new_b = A / scale, B * scale
    new_a[idle], new_b[idle] = reference, 0.0
    return new_a, new_b


def _columns(A: Array, B: Array, reference: Array) -> tuple[Array, Array]:
    pairs = [canonical_pair(*best_factors(a, b, len(reference))[:2], reference)[:2] for a, b in zip(A, B, strict=True)]
    return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])


def _leading(A: Array) -> tuple[Array, float]:
    """Orthonormal rows (r, in) that A (n, r, in) read most in common, and how far their row spaces agree in pairs."""
    n, r, width = A.shape
    stacked = np.linalg.qr(A.transpose(0, 2, 1)).Q.transpose(0, 2, 1).reshape(n * r, width)
    gram = stacked.T @ stacked if width <= n * r else stacked @ stacked.T
    among = (float(np.sum(gram**2)) / r - n) / max(1, n * (n - 1))
    values, vectors = np.linalg.eigh(gram)
    if width <= n * r:
        leading = vectors[:, ::-1][:, :r].T
    else:
        leading = (stacked.T @ (vectors[:, ::-1][:, :r] / np.sqrt(np.maximum(values[::-1][:r], 1e-300)))).T
    largest = leading[np.arange(r), np.abs(leading).argmax(axis=1)]
    return leading * np.where(largest < 0, -1.0, 1.0)[:, None], above_chance(among, r, width) if n > 1 else 1.0


def agreement_of(rows: Array, reference: Array) -> float:
    """Mean squared cosine between orthonormal ``rows`` (q, in) and A₀'s row space, chance taken off."""
    overlap = float(np.sum((rows @ _axes(reference)) ** 2)) / len(rows)
    return float(above_chance(overlap, len(reference), reference.shape[1]))


def _axes(reference: Array) -> Array:
    """Orthonormal columns (in, r) of A₀'s row space."""
    return np.asarray(np.linalg.qr(reference.T).Q)


def above_chance(overlap: Any, rank: int, width: int) -> Any:
    """An overlap (a number or an array), chance taken off."""
    return (overlap - rank / width) / (1 - rank / width) if rank < width else 1.0
