"""The first LoRA trainer for Stable Diffusion (cloneofsimo/lora): ``unet:0:up``, layers by their number.

The numbers count the layers its trainer found in the pipeline; which layer each is, the file does not say. ΔW of each
is known (up · down, no alpha), its name is not.
"""

from __future__ import annotations

import re

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.targets import Target

NAME = "cloneofsimo"
_KEY = re.compile(r"(?P<part>\w+):(?P<n>\d+):(?P<role>up|down)")


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    name = f"{match['part']}:{int(match['n'])}"
    return Key(match["part"], (Target(f"layer {int(match['n'])}"),), {"up": "B", "down": "A"}[match["role"]], name)
