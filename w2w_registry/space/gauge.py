"""The gauge: which of the equal factor pairs (G A, B G⁻¹) of a module θ is written in (DESIGN §3).

(A, B) and (G A, B G⁻¹) are one model, but not one θ. A space of canonical gauge holds a reference A₀ (r × in) per
module and writes every LoRA, fitted on or added, with

    A' = (A₀A₀ᵀ)(A A₀ᵀ)⁻¹ A,    B' = ΔW A₀ᵀ(A₀A₀ᵀ)⁻¹,

so that A'A₀ᵀ = A₀A₀ᵀ whatever the factors were: θ is then a function of ΔW alone, and everything linear in the members
(mean, components, points between them) is canonical too. A LoRA of another rank is first taken as ΔW's best rank-r
factors (Eckart–Young, from QR of the factors and a small SVD; never the dense ΔW). The formula wants A to read its input
roughly where A₀ does, which LoRAs trained from one start do; a LoRA of another start is refused
(:class:`~w2w_registry.errors.ForeignStart`): its coordinates would mean nothing.

A space of raw gauge (the public release, or one fitted before there was a reference) has no A₀: its own LoRAs keep their
numbers, and others are turned and scaled so that A lies as near as it can to the space's mean A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import ForeignStart, SpaceMismatch
from w2w_registry.space.layout import Layout, LayoutTensor, TensorKey, differences

Array = NDArray[np.float64]
How = Literal["as-is", "rescaled", "canonical", "gauge"]

SHARED_START = 0.25
"""Least agreement of a fit set's members (:func:`common_start`). Random starts agree at 0 ± a few hundredths, the mini
world's LoRAs at 0.95."""
FOREIGN_START = 0.1
"""Agreement with A₀ below which a LoRA started elsewhere (:func:`to_gauge`). The mini world's agree at 0.9 and more."""

_RANK = 1e-5  # of the largest singular value of ΔW: smaller ones are the rounding of fp32 factors
_SINGULAR = 0.02  # least cosine between a module's A and A₀: G is at most its inverse
_ROUNDS = 3
_ENOUGH = 256  # members that say what the common start is
# A raw gauge is changed only when that brings θ clearly nearer to the space's mean: a LoRA of the space's own
# training sits about as near either way, and must keep its own numbers.
_CLEARLY_NEARER = 0.7
# In standard deviations, root mean square over θ. A member lies at about 1, and a LoRA of another gauge at many.
_SURELY_MEMBER = 1.5


@dataclass(frozen=True, eq=False)
class Gauged:
    """θ (D,) float32 in the space's gauge, and ``own`` (D,): the LoRA's own numbers, when it has the space's rank.

    ``how``: ``canonical``, or in a raw space ``as-is`` (the LoRA's own numbers) or ``rescaled`` (only B, for another
    alpha / rank); ``gauge`` when the factors had to be found anew (another rank, or a raw space's stranger). ``own`` is
    ``theta`` then if the rank differs. ``loss`` = ‖ΔW − ΔW'‖ / ‖ΔW‖ over all modules, ``module_loss`` by module; both 0
    unless a higher rank had to be cut. ``agreement``: with the space's start, 1 the same, 0 none; None in a raw space.
    """

    theta: NDArray[np.float32]
    own: NDArray[np.float32]
    how: How
    loss: float
    module_loss: Mapping[str, float]
    agreement: float | None = None


@dataclass(frozen=True, eq=False)
class Start:
    """A reference A₀: ``values`` (D_A,) float32, A's numbers of every module in layout order.

    ``agreement``: how far the LoRAs it was found from share a start: mean squared cosine between pairs of them over the
    modules (median), with chance taken off: 1 for one start, about 0 for starts of their own.
    """

    values: NDArray[np.float32]
    agreement: float


def obstacles(shapes: Mapping[TensorKey, tuple[int, ...]], layout: Layout) -> tuple[str, ...]:
    """What keeps a LoRA out of the layout whatever the gauge: other modules, or other inputs and outputs.

    Another rank or alpha is no obstacle. Empty when there is none.
    """
    if all(shapes.get(tensor.key) == tensor.shape for tensor in layout.tensors) and len(shapes) == len(layout.tensors):
        return ()
    as_if = []
    for tensor in layout.tensors:
        shape = shapes.get(tensor.key)
        if shape is not None:
            rank = tensor.rank
            as_if.append(
                LayoutTensor(
                    tensor.module,
                    tensor.factor,
                    (rank, *shape[1:]) if tensor.factor == "A" else (shape[0], rank, *shape[2:]),
                )
            )
    extra = [LayoutTensor(m, f, s) for (m, f), s in shapes.items() if (m, f) not in layout.by_key]
    return differences(layout, Layout((*as_if, *extra), layout.alpha))


def to_gauge(
    tensors: Mapping[TensorKey, NDArray[Any]],
    alphas: Mapping[str, float],
    layout: Layout,
    mean: ArrayLike,
    std: ArrayLike,
    start: NDArray[np.float32] | None = None,
) -> Gauged:
    """A LoRA's θ in the gauge of a space with this layout.

    Args:
        mean, std: μ (D,) and σ (D,), which a raw gauge goes by.
        start: A₀ (D_A,) of a space of canonical gauge; None for a raw one.

    Raises:
        SpaceMismatch: when :func:`obstacles` finds any (fields path and space are left empty for the caller).
        ForeignStart: A reads its input elsewhere than A₀ does (likewise).
    """
    found = obstacles({key: array.shape for key, array in tensors.items()}, layout)
    if found:
        raise SpaceMismatch(path="", space="", differences=found)
    own, rescaled = _own(tensors, alphas, layout)
    if start is None:
        return _to_raw(tensors, alphas, layout, np.asarray(mean, np.float64), np.asarray(std, np.float64), own, rescaled)
    references = start_tensors(start, layout)
    if own is not None and layout.rank == 1:
        return _one_row(layout.flatten(own), layout, start, references)
    written: dict[TensorKey, NDArray[Any]] = {}
    lost, whole, agreements = {}, {}, []
    for module in layout.modules:
        A, B = (_flat(np.asarray(tensors[(module, f)], np.float64)) for f in ("A", "B"))
        target = layout.by_key[(module, "A")], layout.by_key[(module, "B")]
        rows, columns, lost[module], whole[module] = best_factors(
            A, B * (alphas[module] / A.shape[0] / layout.scale(module)), target[0].rank
        )
        new_a, new_b, cosine = canonical_pair(rows, columns, references[module])
        if len(rows):
            agreements.append((_agreement(rows, references[module]), cosine))
        written[(module, "A")], written[(module, "B")] = new_a.reshape(target[0].shape), new_b.reshape(target[1].shape)
    agreement = _agreed(agreements)
    theta, total = layout.flatten(written), float(np.sqrt(sum(whole.values())))
    return Gauged(
        theta,
        theta if own is None else layout.flatten(own),
        "gauge" if own is None else "canonical",
        float(np.sqrt(sum(lost.values()))) / total if total > 0 else 0.0,
        {m: float(np.sqrt(lost[m] / whole[m])) if whole[m] > 0 else 0.0 for m in layout.modules},
        agreement,
    )


def _one_row(
    own: NDArray[np.float32], layout: Layout, start: NDArray[np.float32], references: Mapping[str, Array]
) -> Gauged:
    """Rank 1 without the decompositions: a module's row is its A."""
    tensors = layout.unflatten(own)
    agreements = []
    for module, reference in references.items():
        a = np.asarray(tensors[(module, "A")], np.float64).reshape(-1)
        if np.any(tensors[(module, "B")]) and np.any(a):
            cosine = abs(float(a @ reference[0])) / float(np.sqrt((a @ a) * (reference[0] @ reference[0])))
            agreements.append((_above_chance(cosine**2, 1, len(a)), cosine))
    agreement = _agreed(agreements)
    theta = canonical_rows(own[None], layout, start)[0]
    return Gauged(theta, own, "canonical", 0.0, dict.fromkeys(layout.modules, 0.0), agreement)


def _agreed(modules: list[tuple[float, float]]) -> float:
    """Median agreement of the modules that do something, given as (agreement, least cosine).

    Raises:
        ForeignStart.
    """
    agreement = float(np.median([a for a, _ in modules])) if modules else 1.0
    if agreement < FOREIGN_START or any(cosine < _SINGULAR for _, cosine in modules):
        raise ForeignStart(path="", space="", agreement=agreement)
    return agreement


def canonical_rows(thetas: ArrayLike, layout: Layout, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """θ (n, D) float32 of LoRAs of this layout, each written with A₀ = ``start`` (D_A,); whether they share it is not
    asked."""
    raw = np.asarray(thetas, np.float32)
    out = np.empty_like(raw)
    places = {tensor.key: (tensor, part) for tensor, part in layout.slices()}
    for module, reference in start_tensors(start, layout).items():
        (a, at_a), (b, at_b) = places[(module, "A")], places[(module, "B")]
        A = raw[:, at_a].astype(np.float64).reshape(len(raw), a.rank, -1)
        B = raw[:, at_b].astype(np.float64).reshape(len(raw), -1, a.rank)
        new_a, new_b = _one_column(A, B, reference) if a.rank == 1 else _columns(A, B, reference)
        out[:, at_a], out[:, at_b] = new_a.reshape(len(raw), -1), new_b.reshape(len(raw), -1)
    return out


def common_start(thetas: ArrayLike, layout: Layout) -> Start:
    """The reference A₀ of a fit set, θ (n, D): the mean A of its members written canonically, in three rounds.

    The first A₀ spans the directions the members' A read most in common (leading eigenvectors of the mean projection on
    their row spaces), which no regauging of a member changes. Its size is the members' median one.
    """
    raw = np.asarray(thetas, np.float32)
    some = raw[np.unique(np.linspace(0, len(raw) - 1, min(len(raw), _ENOUGH)).astype(int))]
    values, agreements = [], []
    places = {tensor.key: (tensor, part) for tensor, part in layout.slices()}
    for module in layout.modules:
        tensor, part = places[(module, "A")]
        A = some[:, part].astype(np.float64).reshape(len(some), tensor.rank, -1)
        first, agreement = _leading(A)
        values.append((first * float(np.median(np.linalg.norm(A, axis=(1, 2))) / np.sqrt(tensor.rank))).reshape(-1))
        agreements.append(agreement)
    start = np.concatenate(values).astype(np.float32)
    sides = _a_side(layout)
    for _ in range(_ROUNDS):
        start = canonical_rows(some, layout, start)[:, sides].mean(0, dtype=np.float64).astype(np.float32)
    return Start(start, float(np.median(agreements)))


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
        agreement[acts, m] = [_above_chance(float(c @ c) / r, r, width) for c in cosines]
        least[acts] = np.minimum(least[acts], cosines.min(axis=1))
    idle = np.isnan(agreement).all(axis=1)
    agreement[idle] = 1.0
    return np.asarray((np.nanmedian(agreement, axis=1) >= FOREIGN_START) & (least >= _SINGULAR))


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
    """A' (r, in) and B' (out, r) of ΔW = columns · rows against A₀ = ``reference`` (r, in), rows (q ≤ r, in) orthonormal.

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
    turn = np.linalg.solve(seen, rows) if least >= _SINGULAR else np.linalg.lstsq(seen, rows, rcond=None)[0]
    return square @ turn, np.linalg.solve(square, (columns @ seen).T).T, least


def _one_column(A: Array, B: Array, reference: Array) -> tuple[Array, Array]:
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
    return leading * np.where(largest < 0, -1.0, 1.0)[:, None], _above_chance(among, r, width) if n > 1 else 1.0


def _agreement(rows: Array, reference: Array) -> float:
    """Mean squared cosine between orthonormal ``rows`` (q, in) and A₀'s row space, chance taken off."""
    overlap = float(np.sum((rows @ _axes(reference)) ** 2)) / len(rows)
    return _above_chance(overlap, len(reference), reference.shape[1])


def _axes(reference: Array) -> Array:
    """Orthonormal columns (in, r) of A₀'s row space."""
    return np.asarray(np.linalg.qr(reference.T).Q)


def _above_chance(overlap: float, rank: int, width: int) -> float:
    return (overlap - rank / width) / (1 - rank / width) if rank < width else 1.0


def _a_side(layout: Layout) -> NDArray[np.bool_]:
    """Which of θ's entries (D,) belong to an A."""
    side = np.zeros(layout.dim, bool)
    for tensor, part in layout.slices():
        side[part] = tensor.factor == "A"
    return side


def _flat(array: Array) -> Array:
    return array.reshape(array.shape[0], -1)


def _own(
    tensors: Mapping[TensorKey, NDArray[Any]], alphas: Mapping[str, float], layout: Layout
) -> tuple[dict[TensorKey, NDArray[Any]] | None, bool]:
    """The LoRA's own numbers, B scaled to the layout's alpha / rank; None when a rank differs."""
    own: dict[TensorKey, NDArray[Any]] = {}
    rescaled = False
    for tensor in layout.tensors:
        array = tensors[tensor.key]
        if array.shape != tensor.shape:
            return None, False
        ratio = alphas[tensor.module] / tensor.rank / layout.scale(tensor.module)
        if tensor.factor == "B" and ratio != 1.0:
            array, rescaled = np.asarray(array, np.float64) * ratio, True
        own[tensor.key] = array
    return own, rescaled


# -- raw gauges ---------------------------------------------------------------------------------
def _to_raw(
    tensors: Mapping[TensorKey, NDArray[Any]],
    alphas: Mapping[str, float],
    layout: Layout,
    mean: Array,
    std: Array,
    own: dict[TensorKey, NDArray[Any]] | None,
    rescaled: bool,
) -> Gauged:
    """Whether to rewrite is decided by ‖(θ − μ)/σ‖: as it is when that is a member's distance, else as it is or
    rewritten, whichever lies nearer (rewriting must win clearly)."""
    spread = np.where(std != 0, np.abs(std), np.inf)
    reference = layout.unflatten(mean)
    if own is not None:
        theta = layout.flatten(own)
        distance = float(np.linalg.norm((theta - mean) / spread))
        kept = Gauged(theta, theta, "rescaled" if rescaled else "as-is", 0.0, dict.fromkeys(layout.modules, 0.0))
        if distance < _SURELY_MEMBER * np.sqrt(layout.dim):
            return kept
    written: dict[TensorKey, NDArray[Any]] = {}
    lost, whole = {}, {}
    for module in layout.modules:
        a, b = tensors[(module, "A")], tensors[(module, "B")]
        scale = alphas[module] / a.shape[0] / layout.scale(module)
        target = layout.by_key[(module, "A")], layout.by_key[(module, "B")]
        new_a, new_b, lost[module], whole[module] = _rewrite(a, b, scale, target[0].rank, reference[(module, "A")])
        written[(module, "A")], written[(module, "B")] = new_a.reshape(target[0].shape), new_b.reshape(target[1].shape)
    rewritten = layout.flatten(written)
    if own is not None and float(np.linalg.norm((rewritten - mean) / spread)) >= _CLEARLY_NEARER * distance:
        return kept
    total = float(np.sqrt(sum(whole.values())))
    return Gauged(
        rewritten,
        # What an earlier release recorded of such a LoRA is this θ's digest.
        rewritten,
        "gauge",
        float(np.sqrt(sum(lost.values()))) / total if total > 0 else 0.0,
        {m: float(np.sqrt(lost[m] / whole[m])) if whole[m] > 0 else 0.0 for m in layout.modules},
    )


def _rewrite(
    a: NDArray[Any], b: NDArray[Any], scale: float, rank: int, reference: NDArray[Any]
) -> tuple[Array, Array, float, float]:
    """Best rank-``rank`` factors of scale·BA with A near ``reference``; plus ‖what was cut‖² and ‖scale·BA‖²."""
    A, B = _flat(np.asarray(a, np.float64)), _flat(np.asarray(b, np.float64)) * scale
    rows, columns, lost, whole = best_factors(A, B, rank)
    kept = len(rows)
    if kept < rank:
        rows = np.vstack([rows, _complement(rows, rank - kept)])
        columns = np.hstack([columns, np.zeros((len(columns), rank - kept))])
    # ΔW = columns · rows with orthonormal rows; any rotation R and lengths d give A = d R rows, B = columns Rᵀ / d.
    near = reference.reshape(rank, -1)
    p, _, qt = np.linalg.svd(near @ rows.T)
    turn = p @ qt
    length = np.linalg.norm(near, axis=1)
    length = np.where(length > 0, length, 1.0)
    return length[:, None] * (turn @ rows), columns @ turn.T / length, lost, whole


def _complement(rows: Array, count: int) -> Array:
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
