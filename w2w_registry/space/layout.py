"""Layout: the ordered LoRA tensors that fix how a LoRA flattens to θ ∈ R^D (DESIGN §2, §3)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Factor = Literal["A", "B"]
TensorKey = tuple[str, Factor]


@dataclass(frozen=True)
class LayoutTensor:
    """One LoRA factor: A is (r, in[, kh, kw]), B is (out, r[, 1, 1]).

    ``module`` is the diffusers UNet module name, e.g.
    ``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q``.
    """

    module: str
    factor: Factor
    shape: tuple[int, ...]

    @property
    def key(self) -> TensorKey:
        return (self.module, self.factor)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def rank(self) -> int:
        return self.shape[0] if self.factor == "A" else self.shape[1]


@dataclass(frozen=True)
class Layout:
    """Ordered tensors plus alpha. ΔW of a module is ``(alpha / rank) · B A``."""

    tensors: tuple[LayoutTensor, ...]
    alpha: float

    @cached_property
    def dim(self) -> int:
        """D, the length of θ."""
        return sum(t.size for t in self.tensors)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Module names in layout order, once each."""
        return tuple(dict.fromkeys(t.module for t in self.tensors))

    @cached_property
    def rank(self) -> int:
        """The common rank; 0 when modules differ in rank."""
        ranks = {t.rank for t in self.tensors}
        return ranks.pop() if len(ranks) == 1 else 0

    def scale(self, module: str | None = None) -> float:
        """alpha / rank of ``module`` (of the whole layout when the rank is common)."""
        rank = self.rank if module is None else self.by_key[(module, "A")].rank
        return self.alpha / rank

    @cached_property
    def by_key(self) -> dict[TensorKey, LayoutTensor]:
        return {t.key: t for t in self.tensors}

    @cached_property
    def shapes(self) -> dict[TensorKey, tuple[int, ...]]:
        return {t.key: t.shape for t in self.tensors}

    @cached_property
    def places(self) -> dict[TensorKey, slice]:
        """Every tensor's place in θ."""
        return {tensor.key: place for tensor, place in self.slices()}

    def slices(self) -> Iterator[tuple[LayoutTensor, slice]]:
        """Every tensor with its place in θ."""
        start = 0
        for tensor in self.tensors:
            yield tensor, slice(start, start + tensor.size)
            start += tensor.size

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the layout, alpha included."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "alpha": float(self.alpha),
            "tensors": [[t.module, t.factor, list(t.shape)] for t in self.tensors],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        tensors = tuple(LayoutTensor(m, f, tuple(int(n) for n in s)) for m, f, s in data["tensors"])
        return cls(tensors, float(data["alpha"]))

    def flatten(
        self, tensors: Mapping[TensorKey, NDArray[Any]], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """θ (D,) float32 from the LoRA's tensors, in ``out`` where that is given. Raises KeyError / ValueError if they
        do not fit."""
        parts = []
        for key, shape in self.shapes.items():
            array = np.asarray(tensors[key])
            if array.shape != shape:
                raise ValueError(f"{key[0]} {key[1]}: shape {array.shape}, expected {shape}")
            parts.append(array.reshape(-1))
        if not parts:
            return np.zeros(0, np.float32)
        if out is not None:
            return np.concatenate(parts, out=out, casting="unsafe")
        return np.concatenate(parts, dtype=np.float32, casting="unsafe")

    def unflatten(self, theta: NDArray[Any]) -> dict[TensorKey, NDArray[Any]]:
        """Views into θ (D,), one per tensor."""
        if theta.shape != (self.dim,):
            raise ValueError(f"θ has shape {theta.shape}, layout needs ({self.dim},)")
        return {t.key: theta[part].reshape(t.shape) for t, part in self.slices()}


_BLOCK_ORDER = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}


@lru_cache(maxsize=4096)  # thousands of files share the same few hundred modules
def module_order(module: str) -> tuple[int, tuple[tuple[int, Any], ...]]:
    """Sort key: down → mid → up, then numeric parts by value, attn1 before attn2, q before k, v, out."""
    parts = module.split(".")
    natural = tuple((0, int(p)) if p.isdigit() else (1, _PART_ORDER.get(p, p)) for p in parts[1:])
    # Mixed int/str never meet at one depth of one UNet; keep them comparable all the same.
    comparable = tuple((k, v if isinstance(v, int) else str(v)) for k, v in natural)
    return _BLOCK_ORDER.get(parts[0], 3), comparable


_PART_ORDER = {"to_q": "to_0", "to_k": "to_1", "to_v": "to_2", "to_out": "to_3"}


def layout_of(shapes: Mapping[TensorKey, tuple[int, ...]], alpha: float) -> Layout:
    """Canonical layout of a LoRA: modules in ``module_order``, A then B per module. One object for the same shapes:
    files of one training share theirs, and what it has worked out."""
    return _layout(tuple(shapes.items()), alpha)


@lru_cache(maxsize=64, typed=True)  # an alpha of 1 and one of 1.0 have different digests
def _layout(given: tuple[tuple[TensorKey, tuple[int, ...]], ...], alpha: float) -> Layout:
    shapes = dict(given)
    modules = sorted({m for m, _ in shapes}, key=lambda m: (module_order(m), m))
    tensors = tuple(LayoutTensor(m, f, shapes[(m, f)]) for m in modules for f in ("A", "B") if (m, f) in shapes)
    return Layout(tensors, alpha)


def differences(expected: Layout, found: Layout, limit: int = 5) -> tuple[str, ...]:
    """What keeps ``found`` from fitting ``expected``, as short phrases; empty when they are equal."""
    out: list[str] = []
    missing = [k for k in expected.by_key if k not in found.by_key]
    extra = [k for k in found.by_key if k not in expected.by_key]
    if missing:
        out.append(f"{len(missing)} tensors missing (first: {missing[0][0]} {missing[0][1]})")
    if extra:
        out.append(f"{len(extra)} tensors the space does not have (first: {extra[0][0]} {extra[0][1]})")
    shapes = [t for k, t in expected.by_key.items() if k in found.by_key and found.by_key[k].shape != t.shape]
    for t in shapes[:limit]:
        out.append(f"{t.module} {t.factor} is {found.by_key[t.key].shape}, the space has {t.shape}")
    if len(shapes) > limit:
        out.append(f"… {len(shapes) - limit} more shapes differ")
    if not out and expected.alpha != found.alpha:
        out.append(f"alpha is {found.alpha:g}, the space has {expected.alpha:g}")
    return tuple(out)
