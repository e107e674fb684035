"""XLabs' trainer for Flux: ``double_blocks.0.processor.qkv_lora1.down.weight``; lora1 is of the image's layers, lora2
of the text's. No alpha. Source: diffusers' conversion of such files."""

from __future__ import annotations

import re

from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.targets import IMAGE_QKV, TEXT_QKV, Target

NAME = "xlabs"
_KEY = re.compile(
    r"(?P<stem>(?:diffusion_model\.)?(?P<stack>double|single)_blocks\.(?P<n>\d+)\.processor\.(?P<what>qkv|proj)_lora(?P<of>[12]?))"
    r"\.(?P<role>down|up)\.weight"
)
_LAYERS = {
    ("double", "qkv", "1"): IMAGE_QKV,
    ("double", "qkv", "2"): TEXT_QKV,
    ("double", "proj", "1"): (Target("attn.to_out.0"),),
    ("double", "proj", "2"): (Target("attn.to_add_out"),),
    ("single", "qkv", ""): IMAGE_QKV,
    ("single", "proj", ""): (Target("proj_out"),),
}


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    match = _KEY.fullmatch(key)
    layers = None if match is None else _LAYERS.get((match["stack"], match["what"], match["of"]))
    if match is None or layers is None:
        return None
    block = f"{'' if match['stack'] == 'double' else 'single_'}transformer_blocks.{int(match['n'])}"
    targets = tuple(Target(f"{block}.{one.module}", one.rows) for one in layers)
    return Key("transformer", targets, {"up": "B", "down": "A"}[match["role"]], match["stem"])
