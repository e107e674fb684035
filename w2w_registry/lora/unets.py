"""Flattened names of a UNet's layers, which only a grammar can undo: diffusers' own, and the older ones of the original
code (``input_blocks``)."""

from __future__ import annotations

import re


class UnknownKey(Exception):
    """A name no grammar knows; the argument says why, in a phrase."""


UNET_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
UNET_ROOTS = (
    *UNET_BLOCKS,
    "conv_in",
    "conv_out",
    "conv_norm_out",
    "time_embedding.",
    "add_embedding.",
)
_INNER_ATTENTION = re.compile(
    r"(?:(?P<time>temporal_)?transformer_blocks_(?P<n>\d+)_(?:(?P<attn>attn[12])_(?P<proj>to_q|to_k|to_v|to_out_0)"
    r"|(?P<in>ff|ff_in)_(?P<ff>net_0_proj|net_2)|(?P<norm>norm[123]|norm_in))|(?P<own>proj_in|proj_out|to_q|to_k|to_v|to_out_0|norm)"
    r"|time_pos_embed_(?P<pos>linear_[12]))"
)
_RESNET = {name: name for name in ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "norm1", "norm2")}
_RESNET |= {f"{of}_res_block_{name}": f"{of}_res_block.{name}" for of in ("spatial", "temporal") for name in _RESNET}
_LDM_RESNET = {
    "in_layers_0": "norm1",
    "out_layers_0": "norm2",
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
    "emb_layers_1": "time_emb_proj",
}
_TOP = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "conv_norm_out": "conv_norm_out",
    "time_embedding_linear_1": "time_embedding.linear_1",
    "time_embedding_linear_2": "time_embedding.linear_2",
    "add_embedding_linear_1": "add_embedding.linear_1",
    "add_embedding_linear_2": "add_embedding.linear_2",
    "input_blocks_0_0": "conv_in",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}
_LDM_TOP = {name for name in _TOP if name.startswith(("input_", "out_", "time_embed_", "label_"))}
_BLOCK = re.compile(
    r"(?:(?P<block>down_blocks|up_blocks)_(?P<i>\d+)|(?P<mid>mid_block))"
    r"_(?P<kind>attentions|resnets|downsamplers|upsamplers)_(?P<j>\d+)_(?P<inner>.+)"
)
_LDM = re.compile(r"(?:(?P<side>input|output)_blocks_(?P<i>\d+)|(?P<mid>middle_block))_(?P<j>\d+)_(?P<inner>.+)")
_LDM_LAYERS = 3  # two layers and a sampler per block


def kohya_to_module(name: str) -> str:
    """``lora_unet_down_blocks_0_attentions_0_…_to_q`` → ``down_blocks.0.attentions.0.….to_q``.

    Raises:
        UnknownKey: when the UNet grammar does not know the name.
    """
    flat = name.removeprefix("lora_unet_")
    if flat in _TOP:
        return _TOP[flat]
    module = _from_diffusers_name(flat) or _from_ldm_name(flat)
    if module is None:
        raise UnknownKey("a kohya name that is not one of a known UNet")
    return module


def _from_diffusers_name(flat: str) -> str | None:
    match = _BLOCK.fullmatch(flat)
    if match is None:
        return None
    kind = match["kind"]
    inner = {
        "attentions": _attention(match["inner"]),
        "resnets": _RESNET.get(match["inner"]),
    }.get(kind, "conv" if match["inner"] == "conv" else None)
    if inner is None:
        return None
    block = "mid_block" if match["mid"] else f"{match['block']}.{int(match['i'])}"
    return f"{block}.{kind}.{int(match['j'])}.{inner}"


def _from_ldm_name(flat: str) -> str | None:
    match = _LDM.fullmatch(flat)
    if match is None:
        return None
    j, inner = int(match["j"]), match["inner"]
    resnet, attention = _LDM_RESNET.get(inner), _attention(inner)
    if match["mid"]:
        if resnet and j in (0, 2):
            return f"mid_block.resnets.{j // 2}.{resnet}"
        return f"mid_block.attentions.0.{attention}" if attention and j == 1 else None
    i = int(match["i"])
    if match["side"] == "input":
        block, layer = divmod(i - 1, _LDM_LAYERS)
        side, sampler, operation = "down_blocks", "downsamplers", "op"
    else:
        block, layer = divmod(i, _LDM_LAYERS)
        side, sampler, operation = "up_blocks", "upsamplers", "conv"
    if inner == operation:
        return f"{side}.{block}.{sampler}.0.conv"
    if resnet and j == 0:
        return f"{side}.{block}.resnets.{layer}.{resnet}"
    return f"{side}.{block}.attentions.{layer}.{attention}" if attention and j == 1 else None


def _attention(inner: str) -> str | None:
    match = _INNER_ATTENTION.fullmatch(inner)
    if match is None:
        return None
    if match["own"]:
        return match["own"].replace("to_out_0", "to_out.0")
    if match["pos"]:
        return f"time_pos_embed.{match['pos']}"
    block = f"{match['time'] or ''}transformer_blocks.{int(match['n'])}"
    if match["norm"]:
        return f"{block}.{match['norm']}"
    if match["attn"]:
        return f"{block}.{match['attn']}.{match['proj'].replace('to_out_0', 'to_out.0')}"
    return f"{block}.{match['in']}.{'net.0.proj' if match['ff'] == 'net_0_proj' else 'net.2'}"


def ldm_layer(flat: str) -> str | None:
    """The module that a flattened name of the original code means; None when it is none of its."""
    return _TOP.get(flat) if flat in _LDM_TOP else _from_ldm_name(flat)
