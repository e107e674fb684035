"""kohya's sd-scripts, LyCORIS and what follows them: ``lora_unet_<layer with _>.lora_down.weight``, ``.alpha`` tensors,
``ss_*`` metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.names import UnknownKey, flat_layer, module_to_kohya
from w2w_registry.lora.roles import ending_of
from w2w_registry.space.layout import TensorKey

NAME = "kohya"
FILE = "lora.safetensors"


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    stem, dot, tail = key.partition(".")
    ending = ending_of(f"x.{tail}") if dot else None
    if ending is None or ending.stem != "x":
        return None
    layer = flat_layer(stem)
    return None if layer is None else Key(layer.part, layer.targets, ending.role, stem, ending.adapter)


def name_of(module: str, factor: str) -> str:
    """The key of a factor. Raises UnknownKey: a layer whose flattened name no reader could undo."""
    return f"{module_to_kohya(module)}.lora_{'down' if factor == 'A' else 'up'}.weight"


def tensors(factors: Mapping[TensorKey, NDArray[Any]], alphas: Mapping[str, float]) -> dict[str, NDArray[Any]]:
    """The tensors of a file. Raises UnknownKey."""
    arrays: dict[str, NDArray[Any]] = {}
    for module in dict.fromkeys(m for m, _ in factors):
        arrays[f"{module_to_kohya(module)}.alpha"] = np.asarray(alphas[module], np.float32)
        for factor in ("A", "B"):
            arrays[name_of(module, factor)] = factors[(module, factor)]
    return arrays


def header(settings: Mapping[str, Any], base_model: str | None) -> dict[str, str]:
    """The metadata other tools expect."""
    rank, alpha = settings["r"], settings["lora_alpha"]
    found = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return {**found, "ss_sd_model_name": base_model} if base_model else found


__all__ = ["FILE", "NAME", "UnknownKey", "header", "key_of", "name_of", "tensors"]
