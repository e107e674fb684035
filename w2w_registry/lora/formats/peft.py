"""PEFT: ``base_model.model.<layer>.lora_A[.adapter].weight`` with ``adapter_config.json`` beside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.formats.part import Part, Written
from w2w_registry.lora.names import dotted_layer
from w2w_registry.lora.roles import Ending, ending_of

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


def write(parts: Sequence[Part]) -> dict[str, Written]:
    """A folder's files: PEFT's form is of one model, so each further part of the pipeline has a folder of its name."""
    return {part.name if number else "": _of(part) for number, part in enumerate(parts)}


def _of(part: Part) -> Written:
    config = {"peft_type": "LORA", "task_type": None, "inference_mode": True, **part.settings()}
    names = {key: f"{PREFIX}{part.told(key[0])}.lora_{key[1]}.weight" for key in part.tensors}
    beside = {CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()}
    return Written({name: part.tensors[key] for key, name in names.items()}, beside=beside)
