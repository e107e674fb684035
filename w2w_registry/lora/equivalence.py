"""Is this the same model? Digests that survive a re-save, and a comparison of ΔW that survives rounding and factors.

A re-save in another format, key order or with other metadata leaves θ as it is: one exact digest finds it. A
re-save in fp16 or bf16 rounds every number, but always to the *same* neighbour, so the digest of the rounded θ
can be stored beside the exact one and found by equality as well (:func:`model_digests`). What equality cannot
find (two different roundings of one original, other factors, another rank) is decided on ΔW itself by
:func:`same_model`, for the few whose sketches are near (``space.sketch``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora.tensorfile import round_to
from w2w_registry.space.layout import Layout, TensorKey

# Largest relative error of rounding to nearest, and half the smallest step (where the relative bound ends).
_UNIT: dict[str, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "fp8": 2.0**-4}
_STEP: dict[str, float] = {"fp32": 2.0**-150, "fp16": 2.0**-25, "bf16": 2.0**-134, "fp8": 2.0**-10}
# Below this share of its own size a difference is rounding even where fp16 runs out of exponent; two models
# trained apart differ by their own size or more.
_UNDERFLOW_LIMIT = 0.05

LOSS = 1.1e-3
"""Share of ‖ΔW‖ a tool may lose in cutting ranks and the model still be called the same: a thousandth, and a margin for
the arithmetic."""


@dataclass(frozen=True, eq=False)
class ModelDigests:
    """``exact`` over θ in fp32; ``fp16`` and ``bf16`` over θ rounded to those, taken when first asked for (SHA-256), of
    the ``numbers`` (D,) that are asked for then.

    Two LoRAs are re-saves of one another when any digest of one is a digest of the other.
    """

    exact: str
    numbers: Callable[[], NDArray[Any]]
    layout: Layout

    @cached_property
    def fp16(self) -> str:
        # A value fp16 cannot hold becomes Inf, which no readable file has: such a digest is found by nothing.
        return model_digest(round_to(self.numbers(), "fp16"), self.layout)

    @cached_property
    def bf16(self) -> str:
        return model_digest(round_to(self.numbers(), "bf16"), self.layout)

    def __iter__(self) -> Iterator[str]:
        return iter((self.exact, self.fp16, self.bf16))


def model_digest(theta: NDArray[Any], layout: Layout) -> str:
    """SHA-256 (hex) over layout (alpha included) and θ (D,) as little-endian fp32, −0 taken as 0."""
    values = np.asarray(theta, np.float32)
    if values.shape != (layout.dim,):
        raise ValueError(f"θ has shape {values.shape}, layout needs ({layout.dim},)")
    digest = hashlib.sha256(f"w2w model fp32 {layout.digest}\n".encode())
    digest.update(np.ascontiguousarray(values + np.float32(0), "<f4").data)
    return digest.hexdigest()


def model_digests(theta: NDArray[Any], layout: Layout) -> ModelDigests:
    """Exact digest and those of θ as a fp16 and as a bf16 file would hold it."""
    exact = np.asarray(theta, np.float32)
    return ModelDigests(model_digest(exact, layout), lambda: exact, layout)


def rounding_errors(thetas: Sequence[NDArray[Any]], layout: Layout) -> NDArray[np.float64]:
    """How far ‖ΔW − ΔW'‖ can be (n,), with ΔW' of θ (D,) as a fp16 or a bf16 file holds it: a bound, to first order.

    An entry moves by at most u|x| + s, with u the coarser unit roundoff and s half the coarser smallest step, so a
    factor X of n entries by u‖X‖ + s√n, and a product by what each factor's movement times the other's length comes to.
    """
    at = {tensor.key: i for i, tensor in enumerate(layout.tensors)}
    starts = [place.start for place in layout.places.values()]
    roots = np.sqrt([tensor.size for tensor in layout.tensors])
    of_a, of_b = (np.array([at[(m, factor)] for m in layout.modules]) for factor in ("A", "B"))
    scales = np.array([layout.scale(m) for m in layout.modules])
    unit, step = max(_UNIT["fp16"], _UNIT["bf16"]), max(_STEP["fp16"], _STEP["bf16"])
    found = np.empty(len(thetas))
    for i, theta in enumerate(thetas):
        lengths = np.sqrt(np.add.reduceat(np.square(theta), starts).astype(np.float64))
        moved = unit * lengths + step * roots
        each = moved[of_a] * lengths[of_b] + lengths[of_a] * moved[of_b] + moved[of_a] * moved[of_b]
        found[i] = np.linalg.norm(scales * each)
    return found


@dataclass(frozen=True)
class Sameness:
    """Answer of :func:`same_model`. ``how``: equal, rounding, factors (other ones, perhaps of another rank), or None
    when they differ. ``error`` = ‖ΔW_a − ΔW_b‖ / ‖ΔW_a‖ over all modules (0 for ``equal``)."""

    same: bool
    how: Literal["equal", "rounding", "factors"] | None
    error: float


class HasFactors(Protocol):
    """What is compared: factors by module, their alphas, the dtype on disk (``lora.LoraFile`` is one)."""

    @property
    def tensors(self) -> Mapping[TensorKey, NDArray[Any]]: ...
    @property
    def alphas(self) -> Mapping[str, float]: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Factors:
    """An adapter given as its factors."""

    tensors: Mapping[TensorKey, NDArray[Any]]
    alphas: Mapping[str, float]
    dtype: str = "fp32"


def same_model(a: HasFactors, b: HasFactors) -> Sameness:
    """Whether two LoRAs are one model: the same ΔW, whatever factors, rank, layout and format it is written in.

    First number by number, when the shapes are the same: |a − b| ≤ (u_a + u_b)·max(|a|, |b|) + s_a + s_b, with u the
    unit roundoff (2⁻¹¹ for fp16, 2⁻⁸ for bf16, 2⁻²⁴ for fp32) and s half the smallest step of the dtype. Then by ΔW,
    from the factors: in every module ‖ΔW_a − ΔW_b‖ ≤ (2u_a + 2u_b + ε) ‖ |B| |A| ‖, the first-order bound on what
    rounding does to a product (ε = 2⁻¹⁹ for the arithmetic of the tool that found other factors); or over all modules
    ‖ΔW_a − ΔW_b‖ ≤ (``LOSS`` + ¾(u_a + u_b)) ‖ΔW‖: what a tool that cuts ranks may leave out, and the usual rounding. A
    module that one of them does not have is a ΔW of nothing.

    A dtype that is none of those (``mixed``, ``fp64``) is taken as the coarsest, bf16 with fp16's step.
    """
    unit = sum(_UNIT.get(x.dtype, _UNIT["bf16"]) for x in (a, b))
    step = sum(_STEP.get(x.dtype, _STEP["fp16"]) for x in (a, b))
    alike, equal = _number_by_number(a, b, unit, step)
    if equal:
        return Sameness(True, "equal", 0.0)
    within, gap, size = True, 0.0, 0.0
    for module in {**a.alphas, **b.alphas}:
        difference, own, room = _difference(a, b, module)
        within &= difference <= (2 * unit + 2.0**-19) * room
        gap, size = gap + difference**2, size + own**2
    error = float(np.sqrt(gap / size)) if size > 0 else (0.0 if gap == 0 else np.inf)
    if alike and (within or error <= _UNDERFLOW_LIMIT):
        return Sameness(True, "rounding", error)
    if within or error <= LOSS + 0.75 * unit:
        return Sameness(True, "factors", error)
    return Sameness(False, None, error)


def _number_by_number(a: HasFactors, b: HasFactors, unit: float, step: float) -> tuple[bool, bool]:
    """Whether the factors are alike up to rounding, and whether they are equal."""
    if dict(a.alphas) != dict(b.alphas) or a.tensors.keys() != b.tensors.keys():
        return False, False
    equal = True
    for key, x in a.tensors.items():
        y = b.tensors[key]
        if x.shape != y.shape:
            return False, False
        if np.array_equal(x, y):
            continue
        equal = False
        first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
        room = unit * 1.001 * np.maximum(np.abs(first), np.abs(second)) + step
        if not (np.abs(first - second) <= room).all():
            return False, False
    return True, equal


def _difference(a: HasFactors, b: HasFactors, module: str) -> tuple[float, float, float]:
    """‖ΔW_a − ΔW_b‖, ‖ΔW_a‖ and the larger ‖|B||A|‖ of a module (Frobenius), from the factors; of other sizes: far."""
    A1, B1 = _scaled(a, module)
    A2, B2 = _scaled(b, module)
    if A1 is None or A2 is None or B1 is None or B2 is None:
        one = _product_norm(*((B1, A1) if A1 is not None else (B2, A2)))  # type: ignore[arg-type]
        return one, one if A1 is not None else 0.0, 0.0
    if A1.shape[1] != A2.shape[1] or B1.shape[0] != B2.shape[0]:
        return np.inf, _product_norm(B1, A1), 0.0
    # ΔW_a − ΔW_b = [B1 −B2] [A1; A2]: the QR of both sides leaves a small product, exact to rounding.
    difference = _product_norm(np.hstack([B1, -B2]), np.vstack([A1, A2]))
    return difference, _product_norm(B1, A1), max(_room(A1, B1), _room(A2, B2))


def _room(A: NDArray[Any], B: NDArray[Any]) -> float:
    return float(np.sqrt(np.sum((np.abs(A) @ np.abs(A).T) * (np.abs(B).T @ np.abs(B)))))


def _product_norm(B: NDArray[Any], A: NDArray[Any]) -> float:
    right: NDArray[Any] = np.linalg.qr(A.T).R
    return float(np.linalg.norm(np.linalg.qr(B).R @ right.T))


def _scaled(x: HasFactors, module: str) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """A (r, in) and B (out, r) times alpha / r; None for a module the adapter does not have."""
    if module not in x.alphas:
        return None, None
    A, B = (np.asarray(x.tensors[(module, f)], np.float64) for f in ("A", "B"))
    return A.reshape(A.shape[0], -1), B.reshape(B.shape[0], -1) * (x.alphas[module] / A.shape[0])
