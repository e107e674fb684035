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
# The tensors of PEFT's other methods (FourierFT, HRA…), whose kind the config names: of a layer by the method's own
# prefix, of a layer by anything like one, and one for all layers.
_METHODS = (
    "adamss|beft|c3a|deft|delora|fourierft|frod|glora|gralora|hira|hra|lily|ln_tuning|miss|osf|peanut|poly|psoft|pvera"
    "|randlora|road|shira|supertuning|tinylora|trainable_tokens|unilora|vblora|waveft"
)
_OWN = re.compile(rf"(?P<stem>base_model\.model\..+?)\.(?P<role>(?:{_METHODS})_[\w.]+)")
_OTHER = re.compile(r"(?P<stem>base_model\.model\..+)\.(?P<role>[a-zA-Z]+_\w+)(?:\.default)?(?:\.weight)?")
_SHARED = re.compile(rf"(?P<stem>base_model)\.(?P<role>(?:{_METHODS})_[\w.]+)")
SHARED = "base_model"
"""What the layer is called whose tensors are one for all layers."""


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    own = _OWN.fullmatch(key) or _SHARED.fullmatch(key)
    ending = ending_of(key) if own is None and key.startswith(PREFIX) else None
    if ending is None:
        other = own or _OTHER.fullmatch(key)
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
