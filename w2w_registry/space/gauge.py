"""Bringing a LoRA into a space's gauge: the same ΔW, written with the factors the space's own LoRAs would have.

(A, B) and (G A, B G⁻¹) are one model, but not one θ. LoRAs trained from the space's own initialisation already
share a gauge and are left alone. Another tool's, rank's or initialisation's are rewritten: ΔW's best rank-r factors
(Eckart–Young, from QR of the factors and a small SVD; never the dense ΔW), turned and scaled so that A lies as near
as it can to the space's mean A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import SpaceMismatch
from w2w_registry.space.layout import Layout, LayoutTensor, TensorKey, differences

Array = NDArray[np.float64]

# The gauge is changed only when that brings θ clearly nearer to the space's mean: a LoRA of the space's own
# training sits about as near either way, and must keep its own numbers.
_CLEARLY_NEARER = 0.7
# In standard deviations, root mean square over θ. A member lies at about 1, and a LoRA of another gauge at many.
_SURELY_MEMBER = 1.5


@dataclass(frozen=True, eq=False)
class Gauged:
    """θ (D,) float32 in the space's gauge.

    ``how``: ``as-is`` (the LoRA's own numbers), ``rescaled`` (only B, for another alpha / rank), or ``gauge``
    (rewritten factors). ``loss`` = ‖ΔW − ΔW'‖ / ‖ΔW‖ over all modules, ``module_loss`` by module; both 0 unless
    a higher rank had to be cut.
    """

    theta: NDArray[np.float32]
    how: Literal["as-is", "rescaled", "gauge"]
    loss: float
    module_loss: Mapping[str, float]


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
) -> Gauged:
    """A LoRA's θ in the gauge of a space with this layout, mean μ (D,) and std σ (D,).

    Whether to rewrite is decided by ‖(θ − μ)/σ‖: as it is when that is a member's distance, else as it is or
    rewritten, whichever lies nearer (rewriting must win clearly).

    Raises:
        SpaceMismatch: when :func:`obstacles` finds any (fields path and space are left empty for the caller).
    """
    found = obstacles({key: array.shape for key, array in tensors.items()}, layout)
    if found:
        raise SpaceMismatch(path="", space="", differences=found)
    centre, spread = np.asarray(mean, np.float64), np.abs(np.asarray(std, np.float64))
    spread = np.where(spread > 0, spread, np.inf)
    reference = layout.unflatten(centre)
    own, rescaled = _own(tensors, alphas, layout)
    if own is not None:
        theta = layout.flatten(own)
        distance = float(np.linalg.norm((theta - centre) / spread))
        kept = Gauged(theta, "rescaled" if rescaled else "as-is", 0.0, dict.fromkeys(layout.modules, 0.0))
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
    if own is not None:
        near = float(np.linalg.norm((layout.flatten(written) - centre) / spread))
        if near >= _CLEARLY_NEARER * distance:
            return kept
    total = float(np.sqrt(sum(whole.values())))
    return Gauged(
        layout.flatten(written),
        "gauge",
        float(np.sqrt(sum(lost.values()))) / total if total > 0 else 0.0,
        {m: float(np.sqrt(lost[m] / whole[m])) if whole[m] > 0 else 0.0 for m in layout.modules},
    )


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


def _rewrite(
    a: NDArray[Any], b: NDArray[Any], scale: float, rank: int, reference: NDArray[Any]
) -> tuple[Array, Array, float, float]:
    """Best rank-``rank`` factors of scale·BA with A near ``reference``; plus ‖what was cut‖² and ‖scale·BA‖²."""
    A = np.asarray(a, np.float64).reshape(a.shape[0], -1)
    B = np.asarray(b, np.float64).reshape(b.shape[0], -1) * scale
    left, right = np.linalg.qr(B), np.linalg.qr(A.T)
    u, s, wt = np.linalg.svd(left.R @ right.R.T)
    kept = min(rank, len(s))
    rows = (wt[:kept] @ right.Q.T) if kept else np.zeros((0, A.shape[1]))
    columns = (left.Q @ u[:, :kept]) * s[:kept]
    if kept < rank:
        rows = np.vstack([rows, _complement(rows, rank - kept)])
        columns = np.hstack([columns, np.zeros((len(columns), rank - kept))])
    # ΔW = columns · rows with orthonormal rows; any rotation R and lengths d give A = d R rows, B = columns Rᵀ / d.
    near = reference.reshape(rank, -1)
    p, _, qt = np.linalg.svd(near @ rows.T)
    turn = p @ qt
    length = np.linalg.norm(near, axis=1)
    length = np.where(length > 0, length, 1.0)
    return (
        length[:, None] * (turn @ rows),
        columns @ turn.T / length,
        float(np.sum(s[kept:] ** 2)),
        float(np.sum(s**2)),
    )


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
