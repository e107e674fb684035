"""The gauge: which of the equal factor pairs (G A, B G⁻¹) of a module θ is written in (DESIGN §3).

(A, B) and (G A, B G⁻¹) are one model, but not one θ. A space of canonical gauge holds a reference A₀ (r × in) per
module and writes every LoRA, fitted on or added, with

    A' = (A₀A₀ᵀ)(A A₀ᵀ)⁻¹ A,    B' = ΔW A₀ᵀ(A₀A₀ᵀ)⁻¹,

so that A'A₀ᵀ = A₀A₀ᵀ whatever the factors were: θ is then a function of ΔW alone, and everything linear in the members
(mean, components, points between them) is canonical too. A LoRA of another rank is first taken as ΔW's best rank-r
factors (Eckart–Young, from QR of the factors and a small SVD; never the dense ΔW). The formula wants A to read its
input roughly where A₀ does, which LoRAs trained from one start do; a LoRA of another start is refused
(:class:`~w2w_registry.errors.ForeignStart`): its coordinates would mean nothing.

A space of raw gauge (the public release, or one fitted before there was a reference) has no A₀: its own LoRAs keep
their numbers, and others are turned and scaled so that A lies as near as it can to the space's mean A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import ForeignStart, SpaceMismatch
from w2w_registry.space.factors import SINGULAR, best_factors, canonical_pair, complement, flat
from w2w_registry.space.layout import Layout, LayoutTensor, TensorKey, differences
from w2w_registry.space.start import FOREIGN_START, above_chance, agreement_of, start_tensors

Array = NDArray[np.float64]
How = Literal["as-is", "rescaled", "canonical", "gauge"]

# A raw gauge is changed only when that brings θ clearly nearer to the space's mean: a LoRA of the space's own
# training sits about as near either way, and must keep its own numbers.
_CLEARLY_NEARER = 0.7
# In standard deviations, root mean square over θ. A member lies at about 1, and a LoRA of another gauge at many.
_SURELY_MEMBER = 1.5


@dataclass(frozen=True, eq=False)
class Gauged:
    """θ (D,) float32 in the space's gauge, and ``own`` (D,): the LoRA's own numbers, when it has the space's rank, put
    together by ``numbers`` when they are asked for.

    ``how``: ``canonical``, or in a raw space ``as-is`` (the LoRA's own numbers) or ``rescaled`` (only B, for another
    alpha / rank); ``gauge`` when the factors had to be found anew (another rank, or a raw space's stranger). ``own`` is
    ``theta`` then if the rank differs. ``loss`` = ‖ΔW − ΔW'‖ / ‖ΔW‖ over all modules, ``module_loss`` by module; both 0
    unless a higher rank had to be cut. ``agreement``: with the space's start, 1 the same, 0 none; None in a raw space.
    """

    theta: NDArray[np.float32]
    numbers: Callable[[], NDArray[np.float32]]
    how: How
    loss: float
    module_loss: Mapping[str, float]
    agreement: float | None = None

    @property
    def own(self) -> NDArray[np.float32]:
        """The LoRA's own numbers (D,)."""
        return self.numbers()


def obstacles(shapes: Mapping[TensorKey, tuple[int, ...]], layout: Layout) -> tuple[str, ...]:
    """What keeps a LoRA out of the layout whatever the gauge: other modules, or other inputs and outputs.

    Another rank or alpha is no obstacle. Empty when there is none.
    """
    if dict(shapes) == layout.shapes:
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
        moments = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        return _to_raw(tensors, alphas, layout, *moments, own, rescaled)
    if own is not None and layout.rank == 1:
        return _sure(_one_rows([(tensors, alphas)], layout, start)[0])
    references = start_tensors(start, layout)
    written: dict[TensorKey, NDArray[Any]] = {}
    lost, whole, agreements = {}, {}, []
    for module in layout.modules:
        A, B = (flat(np.asarray(tensors[(module, f)], np.float64)) for f in ("A", "B"))
        target = layout.by_key[(module, "A")], layout.by_key[(module, "B")]
        rows, columns, lost[module], whole[module] = best_factors(
            A, B * (alphas[module] / A.shape[0] / layout.scale(module)), target[0].rank
        )
        new_a, new_b, cosine = canonical_pair(rows, columns, references[module])
        if len(rows):
            agreements.append((agreement_of(rows, references[module]), cosine))
        written[(module, "A")], written[(module, "B")] = new_a.reshape(target[0].shape), new_b.reshape(target[1].shape)
    agreement = _agreed(agreements)
    theta, total = layout.flatten(written), float(np.sqrt(sum(whole.values())))
    return Gauged(
        theta,
        (lambda: theta) if own is None else partial(_numbers, tensors, alphas, layout),
        "gauge" if own is None else "canonical",
        float(np.sqrt(sum(lost.values()))) / total if total > 0 else 0.0,
        {m: float(np.sqrt(lost[m] / whole[m])) if whole[m] > 0 else 0.0 for m in layout.modules},
        agreement,
    )


def to_gauge_all(
    loras: Sequence[tuple[Mapping[TensorKey, NDArray[Any]], Mapping[str, float]]],
    layout: Layout,
    mean: ArrayLike,
    std: ArrayLike,
    start: NDArray[np.float32] | None = None,
) -> list[Gauged | SpaceMismatch | ForeignStart]:
    """As :func:`to_gauge`, for many LoRAs (tensors, alphas), with the error in place of a LoRA that has none.

    Those of rank 1 in a canonical space are written together, a module at a time.
    """
    found: list[Gauged | SpaceMismatch | ForeignStart | None] = [None] * len(loras)
    together = start is not None and layout.rank == 1
    plain = [i for i, (tensors, _) in enumerate(loras) if together and _shapes(tensors) == layout.shapes]
    for i in set(range(len(loras))).difference(plain):
        try:
            found[i] = to_gauge(*loras[i], layout, mean, std, start)
        except (SpaceMismatch, ForeignStart) as error:
            found[i] = error
    if plain and start is not None:
        for i, gauged in zip(plain, _one_rows([loras[i] for i in plain], layout, start), strict=True):
            found[i] = gauged
    return [gauged for gauged in found if gauged is not None]


def _numbers(
    tensors: Mapping[TensorKey, NDArray[Any]],
    alphas: Mapping[str, float],
    layout: Layout,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """θ (D,) of a LoRA of the layout's rank in its own gauge, B scaled to the layout's alpha; in ``out`` where that is
    given."""
    if any(alpha != layout.alpha for alpha in alphas.values()):
        own, _ = _own(tensors, alphas, layout)
        tensors = own or tensors
    return layout.flatten(tensors, out)


def _shapes(tensors: Mapping[TensorKey, NDArray[Any]]) -> dict[TensorKey, tuple[int, ...]]:
    return {key: array.shape for key, array in tensors.items()}


_AT_ONCE = 32
"""LoRAs written together: few enough that a module of them stays in the processor's cache."""


def _one_rows(
    loras: Sequence[tuple[Mapping[TensorKey, NDArray[Any]], Mapping[str, float]]],
    layout: Layout,
    start: NDArray[np.float32],
) -> list[Gauged | ForeignStart]:
    """Rank 1, without the decompositions: a module's row is its A. Numbers are scaled where they lie: to touch as much
    memory again would take longer than all the arithmetic."""
    theta = np.empty((len(loras), layout.dim), np.float32)
    agreements, cosines = (np.full((len(loras), len(layout.modules)), np.nan) for _ in range(2))
    references = start_tensors(start, layout)
    for first in range(0, len(loras), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        for row, lora in zip(theta[part], loras[part], strict=True):
            _numbers(*lora, layout, row)
        for j, (module, reference) in enumerate(references.items()):
            at_a, at_b = layout.places[(module, "A")], layout.places[(module, "B")]
            rows, columns = theta[part, at_a], theta[part, at_b]
            # Lengths and angles in float64; the numbers themselves are only scaled, which float32 does as well.
            wide, size_0 = rows.astype(np.float64), float(reference[0] @ reference[0])
            along, size = wide @ reference[0], np.einsum("ni,ni->n", wide, wide)
            acts = columns.any(axis=1)
            idle = ~acts | (along == 0)
            scale = np.where(idle, 1.0, along / size_0).astype(np.float32)[:, None]
            rows /= scale
            columns *= scale
            rows[idle], columns[idle] = reference[0], 0.0
            live = acts & (size > 0)
            cosine = np.abs(along[live]) / np.sqrt(size[live] * size_0)
            cosines[part, j][live] = cosine
            agreements[part, j][live] = above_chance(cosine**2, 1, rows.shape[1])
    found: list[Gauged | ForeignStart] = []
    no_loss = dict.fromkeys(layout.modules, 0.0)
    for i, agreed in enumerate(agreements):
        live = ~np.isnan(agreed)
        try:
            agreement = _agreed(list(zip(agreed[live], cosines[i, live], strict=True)))
            found.append(Gauged(theta[i], partial(_numbers, *loras[i], layout), "canonical", 0.0, no_loss, agreement))
        except ForeignStart as error:
            found.append(error)
    return found


def _sure(gauged: Gauged | ForeignStart) -> Gauged:
    if isinstance(gauged, ForeignStart):
        raise gauged
    return gauged


def _agreed(modules: list[tuple[float, float]]) -> float:
    """Median agreement of the modules that do something, given as (agreement, least cosine).

    Raises:
        ForeignStart.
    """
    agreement = float(np.median([a for a, _ in modules])) if modules else 1.0
    if agreement < FOREIGN_START or any(cosine < SINGULAR for _, cosine in modules):
        raise ForeignStart(path="", space="", agreement=agreement)
    return agreement


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
        how: How = "rescaled" if rescaled else "as-is"
        kept = Gauged(theta, lambda: theta, how, 0.0, dict.fromkeys(layout.modules, 0.0))
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
        lambda: rewritten,
        "gauge",
        float(np.sqrt(sum(lost.values()))) / total if total > 0 else 0.0,
        {m: float(np.sqrt(lost[m] / whole[m])) if whole[m] > 0 else 0.0 for m in layout.modules},
    )


def _rewrite(
    a: NDArray[Any], b: NDArray[Any], scale: float, rank: int, reference: NDArray[Any]
) -> tuple[Array, Array, float, float]:
    """Best rank-``rank`` factors of scale·BA with A near ``reference``; plus ‖what was cut‖² and ‖scale·BA‖²."""
    A, B = flat(np.asarray(a, np.float64)), flat(np.asarray(b, np.float64)) * scale
    rows, columns, lost, whole = best_factors(A, B, rank)
    kept = len(rows)
    if kept < rank:
        rows = np.vstack([rows, complement(rows, rank - kept)])
        columns = np.hstack([columns, np.zeros((len(columns), rank - kept))])
    # ΔW = columns · rows with orthonormal rows; any rotation R and lengths d give A = d R rows, B = columns Rᵀ / d.
    near = reference.reshape(rank, -1)
    p, _, qt = np.linalg.svd(near @ rows.T)
    turn = p @ qt
    length = np.linalg.norm(near, axis=1)
    length = np.where(length > 0, length, 1.0)
    return length[:, None] * (turn @ rows), columns @ turn.T / length, lost, whole
