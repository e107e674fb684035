"""ComfyUI's and the original code's own names: ``diffusion_model.<layer>.lora_A.weight`` (or ``lora_down``)."""

from __future__ import annotations

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.names import dotted_layer
from w2w_registry.lora.roles import ending_of

NAME = "comfyui"
_PREFIXES = ("diffusion_model.", "model.diffusion_model.")


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    if not key.startswith(_PREFIXES):
        return None
    ending = ending_of(key)
    if ending is None:
        return None
    layer = dotted_layer(ending.stem)
    return Key(layer.part, layer.targets, ending.role, ending.stem, ending.adapter)
