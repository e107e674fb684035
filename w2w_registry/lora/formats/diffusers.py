"""diffusers: ``unet.<layer>.lora_A.weight`` in one file, settings in its header; and its older spellings, with the part
of the pipeline in front or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.names import dotted_layer
from w2w_registry.lora.roles import ending_of
from w2w_registry.space.layout import TensorKey

NAME = "diffusers"
FILE = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"
"""diffusers' name for PEFT settings in the safetensors header."""


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    ending = ending_of(key)
    if ending is None:
        return None
    layer = dotted_layer(ending.stem, processor=ending.processor)
    name = ending.stem.partition(".")[2] if ending.stem.startswith(f"{layer.part}.") else ending.stem
    return Key(layer.part, layer.targets, ending.role, name, ending.adapter)


def tensors(factors: Mapping[TensorKey, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    """The tensors of a file."""
    return {f"{part}.{module}.lora_{factor}.weight": array for (module, factor), array in factors.items()}


def header(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """PEFT's settings by part, as diffusers keeps them."""
    table = {f"{part}.{k}": v for part, one in settings.items() for k, v in one.items()}
    return {METADATA_KEY: json.dumps(table, sort_keys=True)}
