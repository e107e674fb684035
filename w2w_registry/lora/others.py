"""What a file is whose tensors are no adapter's, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_EMBEDDING = {"emb_params", "clip_l", "clip_g", "t5", "string_to_param", "*", "text_encoders_0", "text_encoders_1"}


_PICTURE_KEYS = (".to_k_ip.weight", ".to_v_ip.weight")
_CUSTOM_DIFFUSION = ("_custom_diffusion.weight", "_custom_diffusion.bias")
_HYPERNETWORK = re.compile(r"(?:\d+\.)+linear\.\d+\.(?:weight|bias)")
_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


_LANGUAGE = re.compile(
    r"(?:.*\.)?(?:model|language_model|model\.encoder|decoder)\.layers\.\d+\."
    r"(?:self_attn|self_attention|mlp|encoder_attn|fc[12]|block_sparse_moe|linear_attn|mixer)\b.*"
    r"|(?:.*\.)?backbone\.layers\.\d+\.mixer\..*|(?:.*\.)?encoder\.layer\.\d+\.(?:attention\.self|intermediate|output)\..*"
    r"|(?:.*\.)?(?:transformer|gpt_neox)\.(?:h|layers)\.\d+\.(?:attn|mlp|self_attention|attention)\.(?:c_|query_key).*"
    r"|layers\.\d+\.(?:self_attn|mlp)\..*|(?:encoder|decoder)\.block\.\d+\.layer\..*"
    r"|(?:bert|roberta|distilbert|rwkv|vision_tower)\..*|lm_head"
    r"|(?:model\.)?(?:layers\.\d+\.(?:mamba|mixer|linear_attn)|visual\.blocks\.\d+)\..*"
    r"|transformer\.encoder\.layers\.\d+\.(?:self_attention|mlp)\..*"
)


def is_language_layer(name: str) -> bool:
    """Whether a layer's name is one that language models have, and no text encoder of a diffusion pipeline."""
    return _LANGUAGE.fullmatch(name) is not None


def is_embedding(name: str) -> bool:
    """Whether a tensor's name is one that textual-inversion embeddings have, alone or kept in an adapter's file."""
    return name in _EMBEDDING or name.startswith(("<", "bundle_emb."))


def other_model(names: Iterable[str]) -> str | None:
    """What a file is whose tensors end like an adapter's and are another thing's."""
    names = list(names)
    if "lora_controlnet" in names:
        return "a Control-LoRA, the makings of a ControlNet"
    moments = [name.startswith("optimizer.") or name.endswith(_MOMENTS) for name in names]
    if moments and (all(moments) or any(name.startswith("optimizer.") for name in names)):
        return "an optimizer's state"
    if any(name.startswith(("ip_adapter.", "image_proj.")) or name.endswith(_PICTURE_KEYS) for name in names):
        return "an IP-Adapter, which takes pictures as prompts"
    if any(name.endswith(_CUSTOM_DIFFUSION) for name in names):
        return "weights of Custom Diffusion, which replace a model's own"
    return None


def whole_model(names: Iterable[str]) -> str | None:
    """What model these weights are of, where their names say it."""
    names = set(names)
    if any("motion_modules." in name for name in names):
        return "a motion module"
    if any(map(_HYPERNETWORK.fullmatch, names)):
        return "a hypernetwork"
    return next((what for what, mark in _MODELS if any(name.startswith(mark) for name in names)), None)


_MODELS = (
    ("a T2I-Adapter", ("adapter.body.", "adapter.conv_in", "body.0.")),
    ("a face or style encoder", ("id_encoder", "pulid_", "image_encoder.")),
    ("a ControlNet-LLLite", ("lllite_",)),
    ("a ControlNet", ("control_model.", "controlnet_cond_embedding.", "controlnet_")),
    ("a whole checkpoint", ("first_stage_model.", "cond_stage_model.", "conditioner.")),
    ("a VAE", ("decoder.conv_in.", "encoder.conv_in.", "first_stage_model.", "encoder.down.", "decoder.mid.")),
    ("a UNet or transformer by itself", ("model.diffusion_model.", "down_blocks.", "transformer_blocks.", "double_")),
    ("an image encoder", ("vision_model.",)),
    ("an upscaler", ("model.1.sub.", "conv_first.", "params_ema.")),
    ("a text encoder", ("text_model.", "shared.weight", "encoder.block.")),
)
"""The first that fits is meant: a ControlNet has a UNet's blocks too."""
