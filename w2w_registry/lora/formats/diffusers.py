"""diffusers: ``unet.<layer>.lora_A.weight`` in one file, settings in its header; and its older spellings, with the part
of the pipeline in front or not."""

from __future__ import annotations

import json
from collections.abc import Sequence

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.formats.part import Part, Written
from w2w_registry.lora.names import dotted_layer
from w2w_registry.lora.roles import ending_of

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


def write(parts: Sequence[Part]) -> dict[str, Written]:
    """One file with every part, PEFT's settings of each in its header, as diffusers keeps them."""
    table = {f"{part.name}.{key}": value for part in parts for key, value in part.settings().items()}
    tensors = {
        f"{part.name}.{module}.lora_{factor}.weight": array
        for part in parts
        for (module, factor), array in part.tensors.items()
    }
    return {"": Written(tensors, {METADATA_KEY: json.dumps(table, sort_keys=True)})}
