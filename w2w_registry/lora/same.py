"""Is this the same model? Digests that survive a re-save, and a comparison that survives rounding and gauge.

A re-save in another format, key order or with other metadata leaves θ as it is: one exact digest finds it. A
re-save in fp16 or bf16 rounds every number, but always to the *same* neighbour, so the digest of the rounded θ
can be stored beside the exact one and found by equality as well (:func:`model_digests`). What equality cannot
find (one original seen only through two different roundings, or factors in another gauge) is left to
:func:`same_model`, applied to near neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora.tensorfile import round_to
from w2w_registry.space.layout import Layout, TensorKey

# Largest relative error of rounding to nearest, and half the smallest step (where the relative bound ends).
_UNIT: dict[str, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
_STEP: dict[str, float] = {"fp32": 2.0**-150, "fp16": 2.0**-25, "bf16": 2.0**-134}
# Below this share of its own size a difference is rounding even where fp16 runs out of exponent; two models
# trained apart differ by their own size or more.
_UNDERFLOW_LIMIT = 0.05


@dataclass(frozen=True)
class ModelDigests:
    """``exact`` over θ in fp32; ``fp16`` and ``bf16`` over θ rounded to those (hex SHA-256).

    Two LoRAs are re-saves of one another when any digest of one is a digest of the other.
    """

    exact: str
    fp16: str
    bf16: str

    def __iter__(self) -> Any:
        return iter((self.exact, self.fp16, self.bf16))


@dataclass(frozen=True)
class Sameness:
    """Answer of :func:`same_model`. ``how``: equal, rounding, gauge, or None when they differ.

    ``error`` is the largest ‖ΔW_a − ΔW_b‖ / ‖ΔW_a‖ over the modules (0 for ``equal``).
    """

    same: bool
    how: Literal["equal", "rounding", "gauge"] | None
    error: float


def model_digest(theta: NDArray[Any], layout: Layout) -> str:
    """SHA-256 (hex) over layout (alpha included) and θ (D,) as little-endian fp32, −0 taken as 0."""
    values = np.asarray(theta, np.float32)
    if values.shape != (layout.dim,):
        raise ValueError(f"θ has shape {values.shape}, layout needs ({layout.dim},)")
    digest = hashlib.sha256(f"w2w model fp32 {layout.digest}\n".encode())
    digest.update((values + np.float32(0)).astype("<f4").tobytes())
    return digest.hexdigest()


def model_digests(theta: NDArray[Any], layout: Layout) -> ModelDigests:
    """Exact digest and those of θ as a fp16 and as a bf16 file would hold it."""
    exact = np.asarray(theta, np.float32)
    return ModelDigests(
        model_digest(exact, layout),
        # A value fp16 cannot hold becomes Inf, which no readable file has: such a digest is found by nothing.
        model_digest(round_to(exact, "fp16"), layout),
        model_digest(round_to(exact, "bf16"), layout),
    )


def same_model(
    theta_a: NDArray[Any], theta_b: NDArray[Any], layout: Layout, dtype_a: str = "fp32", dtype_b: str = "fp32"
) -> Sameness:
    """Whether two LoRAs of one layout are one model, within what their dtypes on disk can have rounded away.

    First number by number: |a − b| ≤ (u_a + u_b)·max(|a|, |b|) + s_a + s_b, with u the unit roundoff (2⁻¹¹ for
    fp16, 2⁻⁸ for bf16, 2⁻²⁴ for fp32) and s half the smallest step of the dtype. Then, for factors in another
    gauge (sign flipped, scale moved from A to B, columns turned), by module:
    ‖ΔW_a − ΔW_b‖ ≤ (2u_a + 2u_b + ε) ‖ |B| |A| ‖, the first-order bound on what rounding does to a product;
    ε = 2⁻¹⁹ allows for the arithmetic of the tool that changed the gauge. Norms come from the factors; no dense ΔW.

    ``dtype_*``: fp32, fp16, bf16; anything else (``mixed``, ``fp64``) is taken as the coarsest, bf16 with fp16's step.
    """
    a, b = np.asarray(theta_a, np.float64), np.asarray(theta_b, np.float64)
    if np.array_equal(a, b):
        return Sameness(True, "equal", 0.0)
    unit = sum(_UNIT.get(d, _UNIT["bf16"]) for d in (dtype_a, dtype_b))
    step = sum(_STEP.get(d, _STEP["fp16"]) for d in (dtype_a, dtype_b))
    factors_a, factors_b = layout.unflatten(a), layout.unflatten(b)
    errors, bounds = [], []
    for module in layout.modules:
        difference, size, room = _product_difference(factors_a, factors_b, module)
        relative = difference / size if size > 0 else (0.0 if difference == 0 else np.inf)
        errors.append(relative)
        bounds.append((2 * unit + 2.0**-19) * (room / size if size > 0 else 0.0))
    error = float(max(errors, default=0.0))
    close = np.abs(a - b) <= unit * 1.001 * np.maximum(np.abs(a), np.abs(b)) + step
    if close.all() and error <= max(_UNDERFLOW_LIMIT, *bounds):
        return Sameness(True, "rounding", error)
    if all(e <= bound for e, bound in zip(errors, bounds, strict=True)):
        return Sameness(True, "gauge", error)
    return Sameness(False, None, error)


def _product_difference(
    a: Mapping[TensorKey, NDArray[Any]], b: Mapping[TensorKey, NDArray[Any]], module: str
) -> tuple[float, float, float]:
    """‖ΔW_a − ΔW_b‖, ‖ΔW_a‖ and ‖|B_a||A_a|‖ (Frobenius; the common scale left out), from the factors."""
    A1, B1 = _flat(a, module)
    A2, B2 = _flat(b, module)
    # ΔW_a − ΔW_b = [B1 −B2] [A1; A2]: the QR of both sides leaves a 2r × 2r product, exact to rounding.
    difference = _product_norm(np.hstack([B1, -B2]), np.vstack([A1, A2]))
    size = _product_norm(B1, A1)
    room = float(np.sqrt(np.sum((np.abs(A1) @ np.abs(A1).T) * (np.abs(B1).T @ np.abs(B1)))))
    return difference, size, room


def _product_norm(B: NDArray[Any], A: NDArray[Any]) -> float:
    right: NDArray[Any] = np.linalg.qr(A.T).R
    return float(np.linalg.norm(np.linalg.qr(B).R @ right.T))


def _flat(tensors: Mapping[TensorKey, NDArray[Any]], module: str) -> tuple[NDArray[Any], NDArray[Any]]:
    A, B = tensors[(module, "A")], tensors[(module, "B")]
    return A.reshape(A.shape[0], -1), B.reshape(B.shape[0], B.shape[1])
