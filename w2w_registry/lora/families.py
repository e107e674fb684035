"""Models whose original code gives its layers names that other models have too, or that only the file as a whole tells.

A family is known by one of its ``marks`` among a file's names; then every name of its ``layers`` is of it. Names are
flat here (underscores for dots) and without what may stand in front. Sources: diffusers' conversions of checkpoints
and of LoRAs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from w2w_registry.lora.targets import HEADS, Layer, Rows, Target
from w2w_registry.lora.words import dotted

_THIRDS: tuple[Rows, ...] = ("1/3", "2/3", "3/3")
_HALVES: tuple[Rows, ...] = ("1/2", "2/2")
_IN_FRONT = re.compile(
    r"(?:base_model_model_|lora_unet_|lora_transformer_|lycoris_|model_|diffusion_|transformer_(?!blocks)"
    r"|conditional_transformer_)*"
)


@dataclass(frozen=True)
class _Family:
    """``layers``: a name's pattern, and diffusers' names of what it stands for with the rows of each; None where
    diffusers' names are the file's. ``heads``: DiffSynth, which gives PEFT's own name to its adapters, leaves this
    model's fused layers as the checkpoint has them, q, k and v of one head after those of another."""

    marks: re.Pattern[str]
    layers: tuple[tuple[re.Pattern[str], tuple[tuple[str, Rows], ...]], ...] | None
    heads: bool = False

    def layer(self, flat: str) -> Layer | None:
        if self.layers is None:
            own = dotted(flat)
            return None if own is None else Layer("transformer", (Target(own),))
        for pattern, modules in self.layers:
            match = pattern.fullmatch(flat)
            if match is not None:
                found = tuple(Target(match.expand(module), rows) for module, rows in modules)
                part, dot, _ = found[0].module.partition(":")
                if dot:
                    found = tuple(Target(one.module.removeprefix(f"{part}:"), one.rows) for one in found)
                return Layer(part if dot else "transformer", found)
        return None


def layers_of_family(names: Iterable[str], *, by_peft: bool = False) -> dict[str, Layer]:
    """Of a file's layers, as the file names them, those whose model the others tell. ``by_peft``: whether the keys
    carry the name that PEFT gives to an adapter by itself."""
    flat = {name: _IN_FRONT.sub("", name.replace(".", "_"), count=1) for name in names}
    family = next((one for one in _FAMILIES if any(map(one.marks.fullmatch, flat.values()))), None)
    if family is None:
        return {}
    found = {name: layer for name, own in flat.items() if (layer := family.layer(own)) is not None}
    return {name: _by_heads(layer) for name, layer in found.items()} if by_peft and family.heads else found


def _by_heads(layer: Layer) -> Layer:
    fused = layer.targets if tuple(one.rows for one in layer.targets) == _THIRDS else ()
    apart = tuple(replace(one, rows=rows) for one, rows in zip(fused, HEADS, strict=False))
    return replace(layer, targets=apart or layer.targets)


def _family(marks: str, layers: dict[str, str], *, heads: bool = False) -> _Family:
    """``layers``: several names for a fused layer's parts, in their order; ``~`` where diffusers has a layer's halves
    the other way round; ``part:`` for another part of the pipeline."""
    made = []
    for pattern, modules in layers.items():
        names = modules.split()
        rows = {1: ("all",), 2: _HALVES, 3: _THIRDS}[len(names)]
        if modules.startswith("~"):
            names, rows = [modules[1:]], ("swapped",)
        made.append((re.compile(pattern), tuple(zip(names, rows, strict=True))))
    return _Family(re.compile(marks), tuple(made), heads)


def _attention(pattern: str, to: str, names: dict[str, str]) -> dict[str, str]:
    return {pattern + theirs: to + ours for theirs, ours in names.items()}


_PIXART = {
    r"blocks_(\d+)_attn_qkv": r"B.attn1.to_q B.attn1.to_k B.attn1.to_v",
    r"blocks_(\d+)_attn_proj": r"B.attn1.to_out.0",
    r"blocks_(\d+)_cross_attn_q_linear": r"B.attn2.to_q",
    r"blocks_(\d+)_cross_attn_kv_linear": r"B.attn2.to_k B.attn2.to_v",
    r"blocks_(\d+)_cross_attn_proj": r"B.attn2.to_out.0",
    r"y_embedder_y_proj_fc([12])": r"caption_projection.linear_\1",
    r"final_layer_linear": "proj_out",
}
_IN_BLOCK = {name: to.replace("B.", r"transformer_blocks.\1.") for name, to in _PIXART.items()}
_SANA = _IN_BLOCK | {
    r"blocks_(\d+)_mlp_(inverted|depth|point)_conv_conv": r"transformer_blocks.\1.ff.conv_\2",
    "x_embedder_proj": "patch_embed.proj",
    **{f"t_embedder_mlp_{n}": f"time_embed.emb.timestep_embedder.linear_{n // 2 + 1}" for n in (0, 2)},
    "t_block_1": "time_embed.linear",
}
_PIXART_LAYERS = _IN_BLOCK | {
    r"blocks_(\d+)_mlp_fc1": r"transformer_blocks.\1.ff.net.0.proj",
    r"blocks_(\d+)_mlp_fc2": r"transformer_blocks.\1.ff.net.2",
    "x_embedder_proj": "pos_embed.proj",
    **{f"t_embedder_mlp_{n}": f"adaln_single.emb.timestep_embedder.linear_{n // 2 + 1}" for n in (0, 2)},
    "t_block_1": "adaln_single.linear",
}
_HUNYUAN_DIT = {
    r"blocks_(\d+)_attn1_Wqkv": r"blocks.\1.attn1.to_q blocks.\1.attn1.to_k blocks.\1.attn1.to_v",
    r"blocks_(\d+)_attn([12])_out_proj": r"blocks.\1.attn\2.to_out.0",
    r"blocks_(\d+)_attn2_q_proj": r"blocks.\1.attn2.to_q",
    r"blocks_(\d+)_attn2_kv_proj": r"blocks.\1.attn2.to_k blocks.\1.attn2.to_v",
    r"blocks_(\d+)_default_modulation_1": r"blocks.\1.norm1.linear",
    r"blocks_(\d+)_skip_linear": r"blocks.\1.skip_linear",
    r"blocks_(\d+)_mlp_fc1": r"blocks.\1.ff.net.0.proj",
    r"blocks_(\d+)_mlp_fc2": r"blocks.\1.ff.net.2",
}
_REFINER = r"txt_in_individual_token_refiner_blocks_(\d+)_"
_REFINED = r"context_embedder.token_refiner.refiner_blocks.\1."
_HUNYUAN_VIDEO = {
    f"{_REFINER}self_attn_qkv": " ".join(f"{_REFINED}attn.to_{x}" for x in "qkv"),
    f"{_REFINER}self_attn_proj": f"{_REFINED}attn.to_out.0",
    f"{_REFINER}mlp_fc1": f"{_REFINED}ff.net.0.proj",
    f"{_REFINER}mlp_fc2": f"{_REFINED}ff.net.2",
    f"{_REFINER}adaLN_modulation_1": f"{_REFINED}norm_out.linear",
    "txt_in_input_embedder": "context_embedder.proj_in",
    **{
        f"txt_in_t_embedder_mlp_{n}": f"context_embedder.time_text_embed.timestep_embedder.linear_{n // 2 + 1}"
        for n in (0, 2)
    },
    r"txt_in_c_embedder_linear_([12])": r"context_embedder.time_text_embed.text_embedder.linear_\1",
}
_TO = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
_ADD = {"q": "add_q_proj", "k": "add_k_proj", "v": "add_v_proj", "o": "to_add_out"}
_AURA_FF = {"c_fc1": "linear_1", "c_fc2": "linear_2", "c_proj": "out_projection"}
_DOUBLE, _JOINT = r"double_layers_(\d+)_", r"joint_transformer_blocks.\1."
_AURA_FLOW = {
    **_attention(f"{_DOUBLE}attn_w2", f"{_JOINT}attn.", _TO),
    **_attention(f"{_DOUBLE}attn_w1", f"{_JOINT}attn.", _ADD),
    **_attention(f"{_DOUBLE}mlpX_", f"{_JOINT}ff.", _AURA_FF),
    **_attention(f"{_DOUBLE}mlpC_", f"{_JOINT}ff_context.", _AURA_FF),
    f"{_DOUBLE}modX_1": f"{_JOINT}norm1.linear",
    f"{_DOUBLE}modC_1": f"{_JOINT}norm1_context.linear",
    **_attention(r"single_layers_(\d+)_attn_w1", r"single_transformer_blocks.\1.attn.", _TO),
    **_attention(r"single_layers_(\d+)_mlp_", r"single_transformer_blocks.\1.ff.", _AURA_FF),
    r"single_layers_(\d+)_modCX_1": r"single_transformer_blocks.\1.norm1.linear",
    **{f"t_embedder_mlp_{n}": f"time_step_proj.linear_{n // 2 + 1}" for n in (0, 2)},
    "cond_seq_linear": "context_embedder",
    "init_x_linear": "pos_embed.proj",
    "final_linear": "proj_out",
    "modF_1": "~norm_out.linear",
}
_MOCHI = {
    r"blocks_(\d+)_attn_qkv_x": r"B.attn1.to_q B.attn1.to_k B.attn1.to_v",
    r"blocks_(\d+)_attn_qkv_y": r"B.attn1.add_q_proj B.attn1.add_k_proj B.attn1.add_v_proj",
    r"blocks_(\d+)_attn_proj_x": r"B.attn1.to_out.0",
    r"blocks_(\d+)_attn_proj_y": r"B.attn1.to_add_out",
    r"blocks_(\d+)_mod_x": r"B.norm1.linear",
    r"blocks_(\d+)_mod_y": r"B.norm1_context.linear",
    r"blocks_(\d+)_mlp_x_w1": r"~B.ff.net.0.proj",
    r"blocks_(\d+)_mlp_x_w2": r"B.ff.net.2",
    r"blocks_(\d+)_mlp_y_w1": r"~B.ff_context.net.0.proj",
    r"blocks_(\d+)_mlp_y_w2": r"B.ff_context.net.2",
    "x_embedder_proj": "patch_embed.proj",
    **{f"t_embedder_mlp_{n}": f"time_embed.timestep_embedder.linear_{n // 2 + 1}" for n in (0, 2)},
    r"t5_y_embedder_(to_kv|to_q|to_out)": r"time_embed.pooler.\1",
    "t5_yproj": "time_embed.caption_proj",
    "final_layer_linear": "proj_out",
    "final_layer_mod": "~norm_out.linear",
}
_MOCHI = {name: to.replace("B.", r"transformer_blocks.\1.") for name, to in _MOCHI.items()}
_KREA_ATTENTION = {f"w{x}": to for x, to in _TO.items()} | {"gate": "to_gate"}
_KREA = {
    **_attention(r"blocks_(\d+)_attn_", r"transformer_blocks.\1.attn.", _KREA_ATTENTION),
    r"blocks_(\d+)_mlp_(gate|up|down)": r"transformer_blocks.\1.ff.\2",
    **_attention(
        r"txtfusion_(layerwise_blocks|refiner_blocks)_(\d+)_attn_", r"text_fusion.\1.\2.attn.", _KREA_ATTENTION
    ),
    r"txtfusion_(layerwise_blocks|refiner_blocks)_(\d+)_mlp_(gate|up|down)": r"text_fusion.\1.\2.ff.\3",
    "txtfusion_projector": "text_fusion.projector",
    "first": "img_in",
    "last_linear": "final_layer.linear",
    "tmlp_0": "time_embed.linear_1",
    "tmlp_2": "time_embed.linear_2",
    "tproj_1": "time_mod_proj",
    "txtmlp_1": "txt_in.linear_1",
    "txtmlp_3": "txt_in.linear_2",
}
_ANIMA = {
    **{f"final_layer_adaln_modulation_{n}": f"norm_out.linear_{n}" for n in (1, 2)},
    "final_layer_linear": "proj_out",
    r"t_embedder_1_linear_([12])": r"time_embed.t_embedder.linear_\1",
    "x_embedder_proj_1": "patch_embed.proj",
    r"llm_adapter_blocks_(\d+)_(self|cross)_attn_([qkvo]_proj)": r"text_conditioner:blocks.\1.\2_attn.\3",
    r"llm_adapter_blocks_(\d+)_mlp_(\d+)": r"text_conditioner:blocks.\1.mlp.\2",
}
_LTX = {
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    r"adaln_single_emb_timestep_embedder_linear_([12])": r"time_embed.emb.timestep_embedder.linear_\1",
    "adaln_single_linear": "time_embed.linear",
    r"audio_adaln_single_emb_timestep_embedder_linear_([12])": r"audio_time_embed.emb.timestep_embedder.linear_\1",
    "audio_adaln_single_linear": "audio_time_embed.linear",
    r"av_ca_(video|audio)_scale_shift_adaln_single_linear": r"av_cross_attn_\1_scale_shift.linear",
    "av_ca_a2v_gate_adaln_single_linear": "av_cross_attn_video_a2v_gate.linear",
    "av_ca_v2a_gate_adaln_single_linear": "av_cross_attn_audio_v2a_gate.linear",
    r"(audio_)?prompt_adaln_single_linear": r"\1prompt_adaln.linear",
}
_H3 = {
    pattern.format(blocks): modules.replace("B.", to)
    for blocks, to in (
        (r"blocks_(\d+)_", r"transformer_blocks.\1."),
        (r"token_refiner_blocks_(\d+)_", r"token_refiner.refiner_blocks.\1."),
    )
    for pattern, modules in (
        ("{}attn_qkv_proj", "B.attn.to_q B.attn.to_k B.attn.to_v"),
        ("{}attn_out_proj", "B.attn.to_out.0"),
        ("{}mlp_fc1", "~B.ff.net.0.proj"),
        ("{}mlp_fc2", "B.ff.net.2"),
        ("{}adaln_proj_linear", "B.adaln_proj.linear"),
    )
} | {
    "video_patch_proj": "proj_in",
    "audio_patch_proj": "audio_proj_in",
    "condition_proj": "context_embedder",
    "time_embedder_proj_in": "time_embedder.linear_1",
    "time_embedder_proj_out": "time_embedder.linear_2",
    "final_layer_adaln_proj_linear": "norm_out.linear",
    "final_layer_video_out": "proj_out",
    "final_layer_audio_out": "audio_proj_out",
}
_ACE_STEP = {
    **_attention(
        r"(?:decoder_)?layers_(\d+)_(self|cross)_attn_", r"layers.\1.\2_attn.", {f"{x}_proj": y for x, y in _TO.items()}
    ),
    r"(?:decoder_)?layers_(\d+)_mlp_(gate|up|down)_proj": r"layers.\1.mlp.\2_proj",
}
_FAMILIES = (
    # Sana WM and Wan Animate 2, whose other layers are called as the original Sana's and Wan's
    _Family(
        re.compile(
            r"blocks_\d+_(?:attn_(?:beta_proj|gate_proj|output_gate|\w+_proj_cam)|plucker_proj|mlp_t_conv"
            r"|(?:self|cross)_attn_to_(?:[qkv]|out_0))"
        ),
        None,
    ),
    _family(
        r"blocks_\d+_(?:attn1_(?:Wqkv|out_proj)|attn2_(?:q_proj|kv_proj|out_proj)|default_modulation_1|skip_linear)",
        _HUNYUAN_DIT,
    ),
    _family(r"txt_in_(?:individual_token_refiner_\w+|input_embedder|[tc]_embedder_\w+)", _HUNYUAN_VIDEO),
    _family(r"blocks_\d+_mlp_(?:inverted|depth|point)_conv_conv", _SANA),
    _family(r"blocks_\d+_(?:attn_qkv|cross_attn_(?:q|kv)_linear)", _PIXART_LAYERS),
    _family(r"(?:double|single)_layers_\d+_(?:attn_w[12][qkvo]|mlp[XC]?_c_\w+|mod(?:C|X|CX)_1)", _AURA_FLOW),
    _family(r"blocks_\d+_(?:attn_(?:qkv|proj)|mod)_[xy]", _MOCHI),
    _family(r"blocks_\d+_attn_w[qkvo]|txtfusion_\w+", _KREA),
    _family(r"blocks_\d+_(?:self|cross)_attn_(?:q|k|v|output)_proj", _ANIMA),
    _family(r"(?:audio_)?patchify_proj|transformer_blocks_\d+_(?:audio_\w+|video_to_audio_\w+)|av_ca_\w+", _LTX),
    _family(r"(?:token_refiner_)?blocks_\d+_(?:attn_qkv_proj|adaln_proj_linear)", _H3, heads=True),
    _family(r"(?:decoder_)?layers_\d+_cross_attn_[qkvo]_proj", _ACE_STEP),
)
