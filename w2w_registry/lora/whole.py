"""An adapter as a whole: its digests, and the ΔW of each part of the pipeline it changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora.adapter import Adapter
from w2w_registry.lora.change import Change
from w2w_registry.lora.equivalence import Factors, model_digests, same_model
from w2w_registry.lora.names import DENOISERS
from w2w_registry.lora.read import LARGEST, lora_of, not_plain
from w2w_registry.space.layout import TensorKey

_MOST = 25_000_000
"""Numbers that the factors of one adapter may have to be worked with: a LoHa of rank r has those of a LoRA of r²."""


def digests_of(adapter: Adapter) -> tuple[str, ...]:
    """Digests by which the same adapter is known again: exact, and as a rounded copy would have them. A plain LoRA has
    those it would have in a space of its own layout."""
    if not_plain(adapter) is None:
        lora = lora_of(adapter)
        if lora.alpha is not None and not lora.ignored:
            return tuple(model_digests(lora.theta(), lora.layout()))
    return (adapter.digest, *(adapter.digest_as(dtype) for dtype in ("fp16", "bf16")))


def change_of(adapter: Adapter) -> Factors | None:
    """ΔW of what an adapter is known by: of the denoiser's layers, or of all where it leaves the denoiser alone. None
    where the file does not say it, or says it in too many numbers."""
    if adapter.more or not adapter.changes:
        return None
    if adapter.denoiser:
        return _factors(adapter.denoiser, adapter)
    return _factors(adapter.changes, adapter, named=True)


def shares_of(adapter: Adapter) -> dict[str, Factors] | None:
    """ΔW in the other parts of the pipeline, by part; None where the file does not say one of them."""
    by_part: dict[str, list[Change]] = defaultdict(list)
    for change in adapter.changes:
        if change.part not in DENOISERS:
            by_part[change.part].append(change)
    found = {part: _factors(changes, adapter) for part, changes in by_part.items()}
    return None if None in found.values() else cast(dict[str, Factors], found)


def same_shares(one: Mapping[str, Factors] | None, two: Mapping[str, Factors] | None) -> bool:
    """Whether two adapters change the other parts of the pipeline alike; what is not known is not alike."""
    if one is None or two is None or set(one) != set(two):
        return False
    return all(same_model(one[part], two[part]).same for part in one)


def same_adapter(one: Adapter, two: Adapter) -> bool:
    """Whether two adapters are one: the same numbers, or the same ΔW in every part."""
    if one.digest == two.digest:
        return True
    first, second = change_of(one), change_of(two)
    if first is None or second is None or not same_model(first, second).same:
        return False
    return (not one.denoiser and not two.denoiser) or same_shares(shares_of(one), shares_of(two))


def _factors(changes: Sequence[Change], adapter: Adapter, *, named: bool = False) -> Factors | None:
    """Changes of an adapter as factors by layer; those of a layer's vectors (a bias, a norm) as layers of their own."""
    tensors: dict[TensorKey, NDArray[Any]] = {}
    alphas: dict[str, float] = {}
    count = 0
    for change in changes:
        if not change.exact:
            return None
        module = f"{change.part}.{change.module}" if named else change.module
        plain = change.kind == "LoRA" and "mid" not in change.tensors and change.rows == "all"
        if change.kind in ("bias", "norm"):
            module = f"{module} {change.kind}"
        plain = plain and module not in alphas
        if plain:
            tensors[module, "A"], tensors[module, "B"] = change.tensors["A"], change.tensors["B"]
            alphas[module] = change.scale * change.rank
        else:
            _add(tensors, alphas, module, change)
        a, b = tensors[module, "A"], tensors[module, "B"]
        count += a.size + b.size
        small = (plain and adapter.at_most <= LARGEST) or _largest(a, b) <= LARGEST
        if count > _MOST or not small:
            return None
    return Factors(MappingProxyType(tensors), MappingProxyType(alphas), adapter.dtype)


def _largest(*arrays: NDArray[Any]) -> float:
    return max(float(np.abs(array).max()) for array in arrays)


def _add(tensors: dict[TensorKey, NDArray[Any]], alphas: dict[str, float], module: str, change: Change) -> None:
    """ΔW of a change as factors of the scale 1, beside what the layer has already."""
    found = change.factors()
    assert found is not None  # asked only of an exact one
    b, a = found
    if module in alphas:
        before_a, before_b = tensors[module, "A"], tensors[module, "B"]
        before_a, before_b = before_a.reshape(len(before_a), -1), before_b.reshape(len(before_b), -1)
        if before_a.shape[1] == a.shape[1] and before_b.shape[0] == b.shape[0]:
            a = np.vstack([before_a, a])
            b = np.hstack([before_b * (alphas[module] / len(before_a)), b])
        else:  # other rows of the layer
            module = f"{module} {change.rows}"
    tensors[module, "A"], tensors[module, "B"], alphas[module] = a, b, float(len(a))
