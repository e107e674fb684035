"""PEFT: ``base_model.model.<layer>.lora_A[.adapter].weight`` with ``adapter_config.json`` beside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.names import dotted_layer
from w2w_registry.lora.roles import Ending, ending_of
from w2w_registry.space.layout import TensorKey

NAME = "peft"
FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
# The tensors of PEFT's other methods (FourierFT, HRA…), whose kind the config names.
_OTHER = re.compile(r"(?P<stem>base_model\.model\..+)\.(?P<role>[a-zA-Z]+_\w+)(?:\.default)?(?:\.weight)?")


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    ending = ending_of(key) if key.startswith(PREFIX) else None
    if ending is None:
        other = _OTHER.fullmatch(key)
        if other is None:
            return None
        ending = Ending(other["stem"], other["role"])
    name = ending.stem.removeprefix(PREFIX)
    layer = dotted_layer(name)
    return Key(layer.part, layer.targets, ending.role, name, ending.adapter)


def tensors(factors: Mapping[TensorKey, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The tensors of a file."""
    return {f"{PREFIX}{module}.lora_{factor}.weight": array for (module, factor), array in factors.items()}
