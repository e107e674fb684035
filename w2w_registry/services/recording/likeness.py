"""A likeness: what a model is compared by, whatever its file, its name and its row say (DESIGN §2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora import Adapter, Factors, LoraFile, change_of
from w2w_registry.space.layout import Layout, TensorKey
from w2w_registry.space.sketch import Sketch, sketch, sketches

_AT_ONCE = 32
"""LoRAs sketched together: enough to share the work, few enough to stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Print:
    """A fingerprint, ``values`` (D,), and what makes it comparable: its ``base`` model, and the ``question`` asked."""

    base: str
    question: str
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Likeness:
    """``known``: the factors of the ΔW it is about, or what works them out when they are asked for; ``sketch``: of that
    ΔW. None both for an adapter whose ΔW is not known. ``prints``: its fingerprints; none where no base model was at
    hand to take one with."""

    known: Factors | Callable[[], Factors] | None
    sketch: Sketch | None
    prints: tuple[Print, ...] = ()

    @property
    def factors(self) -> Factors | None:
        """The ΔW."""
        return self.known() if callable(self.known) else self.known


UNKNOWN = Likeness(None, None)
"""Of an opaque adapter: nothing can be compared but its digest."""


def of_lora(lora: LoraFile) -> Likeness:
    """Of a LoRA as read."""
    return _of(factors_of_lora(lora))


def factors_of_lora(lora: LoraFile) -> Factors:
    """ΔW of a LoRA as read."""
    return Factors(lora.tensors, lora.alphas, lora.dtype)


def of_adapter(adapter: Adapter) -> Likeness:
    """Of any adapter whose file says its ΔW; nothing of one whose ΔW depends on the base model's weights."""
    found = change_of(adapter)
    return UNKNOWN if found is None else _of(found)


def of_theta(theta: NDArray[Any], layout: Layout) -> Likeness:
    """Of θ (D,) in a layout."""
    return _of(factors_of(theta, layout))


def sketches_of(thetas: Sequence[NDArray[Any]], layout: Layout) -> list[Sketch]:
    """Of each θ (D,) in a layout."""
    found: list[Sketch] = []
    alphas = dict.fromkeys(layout.modules, layout.alpha)
    for start in range(0, len(thetas), _AT_ONCE):
        part = np.stack(thetas[start : start + _AT_ONCE])
        stacked = {t.key: part[:, place].reshape(len(part), *t.shape) for t, place in layout.slices()}
        found += sketches(stacked, alphas)
    return found


def sketches_of_adapters(adapters: Sequence[Adapter]) -> list[Sketch | None]:
    """Of each adapter, those of one shape and scale together; None where its file does not say its ΔW."""
    found: list[Sketch | None] = [None] * len(adapters)
    groups: dict[tuple[Any, ...], list[tuple[int, Factors]]] = {}
    for i, adapter in enumerate(adapters):
        change = change_of(adapter)
        if change is not None:
            shapes = tuple((key, np.shape(array)) for key, array in change.tensors.items())
            groups.setdefault((shapes, tuple(change.alphas.items())), []).append((i, change))
    for alike in groups.values():
        _, first = alike[0]
        stacked = {key: np.stack([one.tensors[key] for _, one in alike]) for key in first.tensors}
        for (i, _), drawn in zip(alike, sketches(stacked, first.alphas), strict=True):
            found[i] = drawn
    return found


def factors_of(theta: NDArray[Any], layout: Layout) -> Factors:
    """ΔW of θ (D,) in a layout."""
    tensors: Mapping[TensorKey, NDArray[Any]] = layout.unflatten(theta)
    return Factors(tensors, dict.fromkeys(layout.modules, layout.alpha))


def _of(factors: Factors) -> Likeness:
    return Likeness(factors, sketch(factors.tensors, factors.alphas))
