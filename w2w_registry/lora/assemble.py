"""From the tensors of a file to what they do to each layer: grouped by layer, with the scale the settings say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora
from w2w_registry.lora import config
from w2w_registry.lora.change import BrokenChange, Change, check_shapes, rank_of
from w2w_registry.lora.formats import Key
from w2w_registry.lora.header import brief
from w2w_registry.lora.roles import OWN_WEIGHTS, kind_of
from w2w_registry.lora.targets import Target, as_flux2, as_lumina
from w2w_registry.lora.tensorfile import TensorData

_LINEAR = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2")
# Of one tensor each, added to a vector of the layer.
_VECTORS = {"B_bias": "bias", "diff_b": "bias", "b_norm": "bias", "w_norm": "norm"}


def changes_of(
    path: Path, keys: Mapping[str, Key], data: TensorData, settings: Mapping[str, config.Settings]
) -> tuple[tuple[Change, ...], list[str], str]:
    groups: dict[tuple[str, tuple[Target, ...]], dict[str, NDArray[np.float32]]] = {}
    names: dict[tuple[str, tuple[Target, ...]], str] = {}
    for key, one in keys.items():
        group = groups.setdefault((one.part, one.targets), {})
        if one.role in group and not np.array_equal(group[one.role], data.arrays[key]):
            raise BadLora(path=str(path), reason=f"two tensors for {brief(one.targets[0].module)} {one.role}")
        group[one.role] = data.arrays[key]
        # A config's patterns are of dotted names.
        names[one.part, one.targets] = one.name if "." in one.name else one.targets[0].module if settings else one.name
    again = [
        (part, targets)
        for part, targets in groups
        if len(targets) > 1 and all((part, (Target(one.module),)) in groups for one in targets)
    ]
    for place in again:
        del groups[place]
    lumina, flux2 = _is_lumina(groups), _is_flux2(groups, names)
    changes: list[Change] = []
    without: list[str] = []
    with_alpha: Counter[float] = Counter()
    stray = 0
    for place, tensors in groups.items():
        part, targets = place
        if tensors.keys() <= {"alpha", "scalar"}:  # left by a tool that took the layer out
            stray += 1
            continue
        if flux2 and part == "transformer":
            targets = as_flux2(targets, *_sizes(tensors))
        if lumina and part == "transformer":
            targets = tuple(replace(one, module=as_lumina(one.module)) for one in targets)
        try:
            made, own = _layer(part, targets, names[place], tensors, settings.get(part, settings.get("")))
        except BrokenChange as error:
            raise BadLora(path=str(path), reason=f"{brief(targets[0].module)} {error}") from None
        if own is not None:
            with_alpha[own] += 1
        elif not settings and made and made[0].alpha is not None:
            without.append(made[0].module)
        changes += made
    remarks = []
    if again:
        remarks.append(
            f"it gives {len(again)} fused layer{'s'[: len(again) > 1]} besides their parts, which are what counts"
        )
    if stray:
        remarks.append(
            f"it gives an alpha and no factors for {stray} layer{'s'[: stray > 1]}, which it leaves unchanged"
        )
    if with_alpha and without:
        usual = with_alpha.most_common(1)[0][0]
        remarks.append(
            f"it gives alpha for {sum(with_alpha.values())} of {sum(with_alpha.values()) + len(without)} layers; the "
            f"others are taken at alpha = rank, where diffusers would take {usual:g}"
        )
    return tuple(changes), remarks, "settings" if settings else "tensor" if with_alpha else "default"


def _is_flux2(
    groups: Mapping[tuple[str, tuple[Target, ...]], Mapping[str, NDArray[np.float32]]],
    names: Mapping[tuple[str, tuple[Target, ...]], str],
) -> bool:
    """Whether the layers are Flux 2's, by the sizes of those in its blocks."""
    return any(
        as_flux2(place[1], *_sizes(tensors)) != place[1]
        for place, tensors in groups.items()
        if "double_blocks" in names[place] or "single_blocks" in names[place]
    )


def _is_lumina(groups: Mapping[tuple[str, tuple[Target, ...]], Mapping[str, NDArray[np.float32]]]) -> bool:
    """Whether the layers are Lumina 2's and not Z-Image's, which names them alike: there several queries share a key,
    and a block's modulation is its second layer."""
    for (part, targets), tensors in groups.items():
        if part == "transformer" and targets[0].module.startswith(("layers.", "noise_refiner.", "context_refiner.")):
            width, rows = _sizes(tensors)
            fused = targets[0].module.endswith(".attention.to_q") and len(targets) == 3
            if (fused and rows != 3 * width) or targets[0].module.endswith(".adaLN_modulation.1"):
                return True
    return False


def _sizes(tensors: Mapping[str, NDArray[np.float32]]) -> tuple[int, int]:
    """(numbers a linear layer takes, numbers it gives), as far as its factors say; (0, 0) where they do not."""
    pairs = [("A", "B"), ("hada_w1_b", "hada_w1_a")]
    for a, b in pairs:
        if a in tensors and b in tensors and tensors[a].ndim == tensors[b].ndim == 2:
            return tensors[a].shape[1], tensors[b].shape[0]
    width, rows = 1, 1
    for half in ("lokr_w1", "lokr_w2"):
        right, left = (tensors.get(half, tensors.get(f"{half}_{x}")) for x in "ba")
        if right is None or left is None or right.ndim != 2 or left.ndim != 2:
            return 0, 0
        width, rows = width * right.shape[1], rows * left.shape[0]
    return width, rows


def _layer(
    part: str,
    targets: tuple[Target, ...],
    name: str,
    tensors: dict[str, NDArray[np.float32]],
    settings: config.Settings | None,
) -> tuple[list[Change], float | None]:
    """The changes of one layer as the file names it, and the alpha its tensors give."""
    roles = frozenset(tensors) - {"alpha", "scalar"}
    kind = kind_of(roles, tensors)
    own = _alpha(tensors) if kind in _SCALED else None
    if settings is not None and (
        (kind == "other" and settings.kind != "LORA") or (kind == "replaced" and config.unusual(settings.kind))
    ):
        kind = settings.kind
    if settings is not None and settings.dora and kind == "LoRA":
        kind = "DoRA"
    elif settings is not None and kind in _PEFT_KINDS.values() and _PEFT_KINDS.get(settings.kind) != kind:
        raise BrokenChange(f"is a {kind}, but the settings are of a {settings.kind} adapter")
    vectors = {role: tensors[role] for role in roles & set(_VECTORS)}
    body = {role: tensors[role] for role in roles - set(_VECTORS)}
    # PEFT keeps a trained bias of a layer (bias="lora_only") beside its factors.
    whole = {role: body.pop(role) for role in OWN_WEIGHTS if role in body and kind in ("LoRA", "DoRA")}
    made: list[Change] = []
    alpha: float | None = None
    scale = 1.0
    if body:
        for role in ("A", "B"):
            other = "B" if role == "A" else "A"
            if kind in ("LoRA", "DoRA", "AdaLoRA") and role not in body:
                raise BrokenChange(f"has its {other} but no {role}")
        if kind in ("LoRA", "DoRA"):
            body = _shaped(targets, body)
        check_shapes(kind, body, targets if kind == "LoRA" else ())
        rank = rank_of(kind, body)
        if kind in _SCALED:
            alpha, scale = _scale(kind, name, body, rank, own, settings)
        if "scalar" in tensors and tensors["scalar"].size == 1:
            factor = float(tensors["scalar"].reshape(-1)[0])
            alpha, scale = None if alpha is None else alpha * factor, scale * factor
        elif kind not in _KNOWN and "alpha" in tensors and tensors["alpha"].any():
            body["alpha"] = tensors["alpha"]  # of an OFT the limit of its rotations, where 0 is none
        extra = set(body) - _KNOWN.get(kind, set(body))
        final = "other" if extra else kind
        for target in targets if kind == "LoRA" else targets[:1]:
            module, rows = (target.module, target.rows) if kind == "LoRA" or len(targets) == 1 else (name, "all")
            made.append(Change(part, module, final, MappingProxyType(body), alpha, scale, rank, rows, name))
    if whole:
        made.append(Change(part, targets[0].module, "replaced", MappingProxyType(whole), None, 1.0, 1, name=name))
    for role, array in vectors.items():
        # A LoRA's bias is added to its output before it is scaled.
        factor = scale if role == "B_bias" else 1.0
        where = targets[0] if len(targets) == 1 else Target(name)
        tensor = MappingProxyType({_VECTORS[role]: array})
        check_shapes(_VECTORS[role], tensor)
        made.append(Change(part, where.module, _VECTORS[role], tensor, None, factor, 1, where.rows, name))
    return made, own


_SCALED = ("LoRA", "DoRA", "LoHa", "LoKr", "embedding LoRA")
_PEFT_KINDS = {"LORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr"}
_KNOWN: dict[str, set[str]] = {
    "LoRA": {"A", "B", "mid"},
    "LoHa": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"},
    "LoKr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"},
    "embedding LoRA": {"embedding_A", "embedding_B"},
    "full": {"diff"},
}


def _alpha(tensors: Mapping[str, NDArray[np.float32]]) -> float | None:
    if "alpha" not in tensors:
        return None
    array = tensors["alpha"]
    if array.size != 1 or not float(array.reshape(-1)[0]) > 0:
        raise BrokenChange("has an alpha that is not one positive number")
    return float(array.reshape(-1)[0])


def _scale(
    kind: str,
    name: str,
    tensors: Mapping[str, NDArray[np.float32]],
    rank: int,
    own: float | None,
    settings: config.Settings | None,
) -> tuple[float, float]:
    """(alpha, scale): ΔW = scale · (the product), scale = alpha / r, or alpha / √r with rsLoRA."""
    if settings is None:
        # LyCORIS writes alpha = its rank where both halves of a LoKr are full, which is the scale 1.
        whole = kind == "LoKr" and "lokr_w1" in tensors and "lokr_w2" in tensors
        alpha = float(rank) if own is None or whole else own
        return alpha, alpha / rank
    alpha, said = settings.alpha_of(name), settings.rank_of(name)
    if kind == "LoKr" and said is not None:
        rank = int(said)  # PEFT divides by the rank of its settings even where no factor has it
    elif said is not None and said != rank:
        raise BrokenChange(f"has rank {rank}, where the settings say rank {said:g}")
    if settings.rslora:
        alpha *= math.sqrt(rank)
    if own is not None and not math.isclose(own, alpha, rel_tol=1e-3):
        raise BrokenChange(f"has two alphas: {alpha:g} and {own:g} in its tensor")
    return alpha, alpha / rank


def _shaped(targets: tuple[Target, ...], tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Linear layers' factors as matrices, also where a tool wrote them as 1×1 convolutions; and B with as many
    dimensions as A."""
    a, b = tensors["A"], tensors["B"]
    linear = all(t.module.endswith(_LINEAR) for t in targets)
    if linear and "mid" not in tensors:
        a = a.reshape(a.shape[:2]) if a.ndim > 2 and set(a.shape[2:]) == {1} else a
        b = b.reshape(b.shape[:2]) if b.ndim > 2 and set(b.shape[2:]) == {1} else b
    if b.ndim == 2 < a.ndim:
        b = b.reshape(*b.shape, *(1,) * (a.ndim - 2))
    return {**tensors, "A": a, "B": b}
