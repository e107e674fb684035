"""A layer named as the original code of a model names it (SD, SDXL, Flux, SD3, Wan, Lumina 2, Z-Image, Cosmos, Chroma,
HiDream), with dots or underscores."""

from __future__ import annotations

import re

from w2w_registry.lora.targets import STACKS, TOP, WAN_ATTENTION, Layer, Target, further_layer
from w2w_registry.lora.unets import ldm_layer

_WAN = re.compile(
    r"blocks_(?P<n>\d+)_(?:(?P<attn>self|cross)_attn_(?P<x>q|k|v|o|k_img|v_img|norm_q|norm_k|norm_k_img)|ffn_(?P<ff>[02]))"
)
_ORIGINAL = re.compile(rf"(?P<stack>{'|'.join(STACKS)})_(?P<n>\d+)_(?P<inner>\w+)")


def original_layer(name: str) -> Layer | None:
    """A layer named as the original code of a model does (SD, SDXL, Flux, SD3, Wan, Lumina 2, Z-Image, Cosmos, Chroma,
    HiDream), with dots or underscores."""
    flat = name.replace(".", "_")
    wan = _WAN.fullmatch(flat)
    if wan is not None:
        if wan["ff"]:
            name = f"ffn.net.{'0.proj' if wan['ff'] == '0' else '2'}"
        else:
            name = f"{'attn1' if wan['attn'] == 'self' else 'attn2'}.{WAN_ATTENTION[wan['x']]}"
        return Layer("transformer", (Target(f"blocks.{int(wan['n'])}.{name}"),))
    whole = (TOP[flat],) if flat in TOP else None
    if whole is not None:
        return Layer("transformer", whole)
    match = _ORIGINAL.fullmatch(flat)
    if match is not None:
        stack, inner = STACKS[match["stack"]]
        targets = inner.get(match["inner"])
        if targets is None:
            return None
        block = f"{stack or match['stack']}.{int(match['n'])}"
        return Layer("transformer", tuple(Target(f"{block}.{t.module}", t.rows) for t in targets))
    further = further_layer(flat)
    if further is not None:
        return Layer("transformer", (Target(further),))
    module = ldm_layer(flat)
    return None if module is None else Layer("unet", (Target(module),))
