"""Key names of LoRA files <-> diffusers UNet module names.

Three families: PEFT (``base_model.model.<module>.lora_A[.adapter].weight``), diffusers
(``unet.<module>.lora_A.weight`` and its older spellings) and kohya (``lora_unet_<module with _>.lora_down.weight``).
kohya flattens dots to underscores, which only a grammar of UNet names can undo; its SDXL files use the older
``input_blocks``/``output_blocks`` names of the original code, mapped here for two layers per block (SD 1, SD 2, SDXL).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Role = Literal["A", "B", "alpha"]
Format = Literal["peft", "diffusers", "kohya"]


@dataclass(frozen=True)
class KeyParts:
    """What one key of a LoRA file names. ``part`` is ``unet`` or the text encoder it belongs to."""

    format: Format
    part: str
    module: str
    role: Role
    adapter: str | None = None


class UnknownKey(Exception):
    """A key that is no LoRA factor this package reads; the argument says why, in a phrase."""


_OTHER_KINDS = (
    (("lora_magnitude_vector", "dora_scale"), "DoRA"),
    (("hada_",), "LoHa"),
    (("lokr_",), "LoKr"),
    (("lora_mid",), "LoRA with a Tucker (cp) core"),
    (("oft_", "oft_blocks"), "OFT"),
    (("ia3_",), "IA3"),
    (("glora", ".a1.weight", ".b1.weight"), "GLoRA"),
    (("lora_embedding_",), "LoRA of an embedding table"),
)
_FACTOR = re.compile(
    r"(?P<module>.+?)(?:"
    r"\.lora_(?P<peft>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
    r"|(?:(?P<attn>_lora)|\.lora|\.lora_linear_layer)\.(?P<old>down|up)\.weight"
    r"|\.lora_(?P<kohya>down|up)\.weight"
    r"|\.(?:lora\.)?(?P<alpha>alpha)"
    r")"
)
_TEXT = {"text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2"}
_KOHYA_TEXT = {"lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
_PEFT = "base_model.model."
_UNET_ROOTS = ("down_blocks.", "mid_block.", "up_blocks.", "conv_in.", "conv_out.", "time_embedding.", "add_embedding.")


@lru_cache(maxsize=4096)  # thousands of files share the same few hundred keys
def parse_key(key: str) -> KeyParts:
    """What ``key`` names.

    Raises:
        UnknownKey: with the reason as its argument.
    """
    lower = key.lower()
    for marks, kind in _OTHER_KINDS:
        if any(mark in lower for mark in marks):
            raise UnknownKey(f"a {kind} file, not a plain LoRA")
    match = _FACTOR.fullmatch(key)
    if match is None:
        raise UnknownKey("not a LoRA tensor")
    stem = match["module"]
    role: Role = (
        "alpha"
        if match["alpha"]
        else "A"
        if (match["peft"] or match["old"] or match["kohya"]) in ("A", "down")
        else "B"
    )
    for prefix, part in _KOHYA_TEXT.items():
        if stem.startswith(prefix):
            return KeyParts("kohya", part, stem, role)
    if stem.startswith("lora_unet_"):
        return KeyParts("kohya", "unet", kohya_to_module(stem), role)
    if stem.startswith(_PEFT):
        return KeyParts("peft", "unet", stem.removeprefix(_PEFT), role, match["adapter"])
    for prefix, part in _TEXT.items():
        if stem.startswith(prefix):
            return KeyParts("diffusers", part, stem.removeprefix(prefix), role)
    if stem.startswith("unet."):
        module = stem.removeprefix("unet.")
    elif stem.startswith(_UNET_ROOTS):
        module = stem
    else:
        raise UnknownKey("not the name of a UNet module")
    return KeyParts("diffusers", "unet", _plain_module(module, bool(match["attn"])), role, match["adapter"])


def _plain_module(module: str, processor: bool) -> str:
    """``…attn1.processor.to_q`` (attention processor era) → ``…attn1.to_q``; ``to_out`` → ``to_out.0``."""
    head, dot, tail = module.rpartition(".")
    if processor or head.endswith(".processor"):
        head, tail = head.removesuffix(".processor"), tail.removesuffix("_lora")
        tail = "to_out.0" if tail == "to_out" else tail
    return f"{head}{dot}{tail}"


# -- kohya --------------------------------------------------------------------------------------
_INNER_ATTENTION = re.compile(
    r"(?:transformer_blocks_(?P<n>\d+)_(?:(?P<attn>attn[12])_(?P<proj>to_q|to_k|to_v|to_out_0)|ff_(?P<ff>net_0_proj|net_2))"
    r"|(?P<own>proj_in|proj_out|to_q|to_k|to_v|to_out_0))"
)
_RESNET = {"conv1": "conv1", "conv2": "conv2", "conv_shortcut": "conv_shortcut", "time_emb_proj": "time_emb_proj"}
_LDM_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
    "emb_layers_1": "time_emb_proj",
}
_TOP = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "time_embedding_linear_1": "time_embedding.linear_1",
    "time_embedding_linear_2": "time_embedding.linear_2",
    "add_embedding_linear_1": "add_embedding.linear_1",
    "add_embedding_linear_2": "add_embedding.linear_2",
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}
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


def module_to_kohya(module: str) -> str:
    """The kohya name of a module.

    Raises:
        UnknownKey: when a kohya reader could not tell the module from the name.
    """
    name = "lora_unet_" + module.replace(".", "_")
    if kohya_to_module(name) != module:
        raise UnknownKey("a module that kohya names cannot carry")
    return name


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
    block = f"transformer_blocks.{int(match['n'])}"
    if match["attn"]:
        return f"{block}.{match['attn']}.{match['proj'].replace('to_out_0', 'to_out.0')}"
    return f"{block}.ff.{'net.0.proj' if match['ff'] == 'net_0_proj' else 'net.2'}"
