"""kohya's and LyCORIS' flattened names: dots made underscores, of every part of a pipeline."""

from __future__ import annotations

import re

from w2w_registry.lora.originals import original_layer
from w2w_registry.lora.targets import Layer, Target
from w2w_registry.lora.unets import UNET_ROOTS, UnknownKey, kohya_to_module
from w2w_registry.lora.words import dotted

_FLAT_CLIP = re.compile(
    r"(?:text_model_)?encoder_layers_(?P<n>\d+)_(?:self_attn_(?P<attn>[qkv]_proj|out_proj)|mlp_(?P<mlp>fc[12]))"
)
_FLAT_T5 = re.compile(
    r"encoder_block_(?P<n>\d+)_layer_(?P<m>\d+)_(?:(?P<attn>SelfAttention)_(?P<a>[qkvo])|(?P<ff>DenseReluDense)_(?P<f>wi_0|wi_1|wi|wo))"
)
_FLAT_TEXT = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
_FLAT_TEXT |= {"te4": "text_encoder_4", "prior_te": "text_encoder"}
_FLAT = re.compile(r"(?P<tool>lora|lycoris|oft)_(?P<what>unet|te[1-4]?|transformer|prior_unet|prior_te)_+(?P<flat>.+)")


def flat_layer(stem: str) -> Layer | None:
    """The layer a flattened name (``lora_unet_…``, ``lora_te1_…``, ``lycoris_…``) means; None when it is none."""
    if stem.startswith("lycoris_"):
        # LyCORIS' own prefix, with a part or without: `lycoris_transformer_blocks_0_attn_to_q`
        layer = _flat_denoiser(stem.removeprefix("lycoris_"), stem)
        if layer.part != "model":
            return layer
    match = _FLAT.fullmatch(stem)
    if match is None:
        return Layer("model", (Target(stem),)) if stem.startswith("lycoris_") else None
    flat = match["flat"]
    if match["what"] in _FLAT_TEXT:
        return Layer(_FLAT_TEXT[match["what"]], (Target(_from_flat_text(flat)),))
    # Some trainers put the part in twice.
    return _flat_denoiser(flat.removeprefix("unet_"), stem)


def _flat_denoiser(flat: str, stem: str) -> Layer:
    original = original_layer(flat)
    if original is not None:
        return original
    try:
        return Layer("unet", (Target(kohya_to_module(f"lora_unet_{flat}")),))
    except UnknownKey:
        module = dotted(flat)
    if module is None:
        return Layer("model", (Target(stem),))
    return Layer("unet" if module.startswith(UNET_ROOTS) else "transformer", (Target(module),))


def _from_flat_text(flat: str) -> str:
    clip = _FLAT_CLIP.fullmatch(flat)
    if clip is not None:
        tail = f"self_attn.{clip['attn']}" if clip["attn"] else f"mlp.{clip['mlp']}"
        return f"text_model.encoder.layers.{int(clip['n'])}.{tail}"
    t5 = _FLAT_T5.fullmatch(flat)
    if t5 is not None:
        tail = f"SelfAttention.{t5['a']}" if t5["attn"] else f"DenseReluDense.{t5['f']}"
        return f"encoder.block.{int(t5['n'])}.layer.{int(t5['m'])}.{tail}"
    return flat


def module_to_kohya(module: str) -> str:
    """The kohya name of a module.

    Raises:
        UnknownKey: when a kohya reader could not tell the module from the name.
    """
    name = "lora_unet_" + module.replace(".", "_")
    layer = flat_layer(name)
    if layer is None or layer.targets != (Target(module),):
        raise UnknownKey(f"{module} is a module that kohya names cannot carry")
    return name
