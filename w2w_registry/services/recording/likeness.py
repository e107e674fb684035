"""A likeness: what a model is compared by, whatever its file, its name and its row say (DESIGN §2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from w2w_registry.lora import Factors, LoraFile
from w2w_registry.space.layout import Layout, TensorKey
from w2w_registry.space.sketch import Sketch, sketch


@dataclass(frozen=True, eq=False)
class Likeness:
    """``factors``: the ΔW it is about; ``sketch``: of that ΔW. None both for an adapter whose ΔW is not known."""

    factors: Factors | None
    sketch: Sketch | None


UNKNOWN = Likeness(None, None)
"""Of an opaque adapter: nothing can be compared but its digest."""


def of_lora(lora: LoraFile) -> Likeness:
    """Of a LoRA as read."""
    return _of(Factors(lora.tensors, lora.alphas, lora.dtype))


def of_theta(theta: NDArray[Any], layout: Layout) -> Likeness:
    """Of θ (D,) in a layout."""
    tensors: Mapping[TensorKey, NDArray[Any]] = layout.unflatten(theta)
    return _of(Factors(tensors, dict.fromkeys(layout.modules, layout.alpha)))


def _of(factors: Factors) -> Likeness:
    return Likeness(factors, sketch(factors.tensors, factors.alphas))
