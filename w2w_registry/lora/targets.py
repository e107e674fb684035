"""What a layer's name stands for, and the names that the original code of Flux and SD3 gives its layers.

Source: diffusers' conversion scripts and the models' own module names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Rows = Literal[
    "all",
    "1/3",
    "2/3",
    "3/3",
    "1/2",
    "2/2",
    "first",
    "second",
    "third",
    "rest",
    "keys",
    "values",
    "swapped",
    "swapped pair",
    "heads' 1/3",
    "heads' 2/3",
    "heads' 3/3",
]
"""Which rows of a fused layer one of its parts has: thirds; halves; pieces as long as the layer's input is wide and
what is left; the halves of what is left after the first piece (keys and values, which several queries may share);
both halves the other way round, or that only where there are two pieces and not more; or the thirds of each head, of
:data:`HEAD` rows each."""
HEAD = 128
HEADS: tuple[Rows, ...] = ("heads' 1/3", "heads' 2/3", "heads' 3/3")


@dataclass(frozen=True)
class Target:
    """One of diffusers' layers a name stands for, and which rows of the named layer it has."""

    module: str
    rows: Rows = "all"


@dataclass(frozen=True)
class Layer:
    """What a name stands for. ``part`` of the pipeline: unet, transformer, text_encoder(_2, _3), or ``model`` where it
    cannot be told; ``language model`` for adapters that are of no diffusion pipeline."""

    part: str
    targets: tuple[Target, ...]


def _qkv(*modules: str) -> tuple[Target, ...]:
    return (Target(modules[0], "1/3"), Target(modules[1], "2/3"), Target(modules[2], "3/3"))


IMAGE_QKV, TEXT_QKV = (
    _qkv("attn.to_q", "attn.to_k", "attn.to_v"),
    _qkv("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
)
FLUX_DOUBLE: dict[str, tuple[Target, ...]] = {
    "img_attn_qkv": IMAGE_QKV,
    "txt_attn_qkv": TEXT_QKV,
    "img_attn_proj": (Target("attn.to_out.0"),),
    "txt_attn_proj": (Target("attn.to_add_out"),),
    "img_mlp_0": (Target("ff.net.0.proj"),),
    "img_mlp_2": (Target("ff.net.2"),),
    "txt_mlp_0": (Target("ff_context.net.0.proj"),),
    "txt_mlp_2": (Target("ff_context.net.2"),),
    "img_attn_norm_query_norm": (Target("attn.norm_q"),),
    "img_attn_norm_key_norm": (Target("attn.norm_k"),),
    "txt_attn_norm_query_norm": (Target("attn.norm_added_q"),),
    "txt_attn_norm_key_norm": (Target("attn.norm_added_k"),),
    "img_mod_lin": (Target("norm1.linear"),),
    "txt_mod_lin": (Target("norm1_context.linear"),),
    # HunyuanVideo's names for the same
    "img_mlp_fc1": (Target("ff.net.0.proj"),),
    "img_mlp_fc2": (Target("ff.net.2"),),
    "txt_mlp_fc1": (Target("ff_context.net.0.proj"),),
    "txt_mlp_fc2": (Target("ff_context.net.2"),),
    "img_attn_q_norm": (Target("attn.norm_q"),),
    "img_attn_k_norm": (Target("attn.norm_k"),),
    "txt_attn_q_norm": (Target("attn.norm_added_q"),),
    "txt_attn_k_norm": (Target("attn.norm_added_k"),),
    "img_mod_linear": (Target("norm1.linear"),),
    "txt_mod_linear": (Target("norm1_context.linear"),),
    # and those of HunyuanImage and HunyuanVideo 1.5, where nothing is fused
    **{f"img_attn_{x}": (Target(f"attn.to_{x}"),) for x in "qkv"},
    **{f"txt_attn_{x}": (Target(f"attn.add_{x}_proj"),) for x in "qkv"},
}
FLUX_SINGLE: dict[str, tuple[Target, ...]] = {
    "linear1": (
        Target("attn.to_q", "first"),
        Target("attn.to_k", "second"),
        Target("attn.to_v", "third"),
        Target("proj_mlp", "rest"),
    ),
    "norm_query_norm": (Target("attn.norm_q"),),
    "norm_key_norm": (Target("attn.norm_k"),),
    "linear2": (Target("proj_out"),),
    "modulation_lin": (Target("norm.linear"),),
    "q_norm": (Target("attn.norm_q"),),
    "k_norm": (Target("attn.norm_k"),),
    "modulation_linear": (Target("norm.linear"),),
    **{f"linear1_{x}": (Target(f"attn.to_{x}"),) for x in "qkv"},
    "linear1_mlp": (Target("proj_mlp"),),
    "linear2_fc": (Target("proj_out"),),
}
FLUX3: dict[str, tuple[Target, ...]] = {
    "q_proj": (Target("attn.to_q"),),
    "k_proj": (Target("attn.to_k"),),
    "v_proj": (Target("attn.to_v"),),
    "attn_out": (Target("attn.to_out.0"),),
    "mlp_in": (Target("ff.linear_in"),),
    "mlp_out": (Target("ff.linear_out"),),
}
SD3_JOINT: dict[str, tuple[Target, ...]] = {
    "x_block_attn_qkv": IMAGE_QKV,
    "context_block_attn_qkv": TEXT_QKV,
    "x_block_attn_proj": (Target("attn.to_out.0"),),
    "context_block_attn_proj": (Target("attn.to_add_out"),),
    "x_block_adaLN_modulation_1": (Target("norm1.linear"),),
    "context_block_adaLN_modulation_1": (Target("norm1_context.linear", "swapped pair"),),
    "x_block_mlp_fc1": (Target("ff.net.0.proj"),),
    "x_block_mlp_fc2": (Target("ff.net.2"),),
    "context_block_mlp_fc1": (Target("ff_context.net.0.proj"),),
    "context_block_mlp_fc2": (Target("ff_context.net.2"),),
    "x_block_attn2_qkv": _qkv("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block_attn2_proj": (Target("attn2.to_out.0"),),
}
FLUX_TOP: dict[str, Target] = {
    "img_in": Target("x_embedder"),
    "txt_in": Target("context_embedder"),
    "time_in.in_layer": Target("time_text_embed.timestep_embedder.linear_1"),
    "time_in.out_layer": Target("time_text_embed.timestep_embedder.linear_2"),
    "vector_in.in_layer": Target("time_text_embed.text_embedder.linear_1"),
    "vector_in.out_layer": Target("time_text_embed.text_embedder.linear_2"),
    "guidance_in.in_layer": Target("time_text_embed.guidance_embedder.linear_1"),
    "guidance_in.out_layer": Target("time_text_embed.guidance_embedder.linear_2"),
    "final_layer.linear": Target("proj_out"),
    "final_layer.adaLN_modulation.1": Target("norm_out.linear", "swapped"),
}
HUNYUAN_TOP: dict[str, Target] = {
    "img_in.proj": Target("x_embedder.proj"),
    "time_in.mlp.0": Target("time_text_embed.timestep_embedder.linear_1"),
    "time_in.mlp.2": Target("time_text_embed.timestep_embedder.linear_2"),
    "guidance_in.mlp.0": Target("time_text_embed.guidance_embedder.linear_1"),
    "guidance_in.mlp.2": Target("time_text_embed.guidance_embedder.linear_2"),
}
SD3_TOP: dict[str, Target] = {
    "x_embedder.proj": Target("pos_embed.proj"),
    "t_embedder.mlp.0": Target("time_text_embed.timestep_embedder.linear_1"),
    "t_embedder.mlp.2": Target("time_text_embed.timestep_embedder.linear_2"),
    "y_embedder.mlp.0": Target("time_text_embed.text_embedder.linear_1"),
    "y_embedder.mlp.2": Target("time_text_embed.text_embedder.linear_2"),
}
FLUX2_TOP: dict[str, Target] = {
    "double_stream_modulation_img.lin": Target("double_stream_modulation_img.linear"),
    "double_stream_modulation_txt.lin": Target("double_stream_modulation_txt.linear"),
    "single_stream_modulation.lin": Target("single_stream_modulation.linear"),
}
WAN_TOP: dict[str, Target] = {
    "time_embedding.0": Target("condition_embedder.time_embedder.linear_1"),
    "time_embedding.2": Target("condition_embedder.time_embedder.linear_2"),
    "time_projection.1": Target("condition_embedder.time_proj"),
    "text_embedding.0": Target("condition_embedder.text_embedder.linear_1"),
    "text_embedding.2": Target("condition_embedder.text_embedder.linear_2"),
    "img_emb.proj.1": Target("condition_embedder.image_embedder.ff.net.0.proj"),
    "img_emb.proj.3": Target("condition_embedder.image_embedder.ff.net.2"),
    "head.head": Target("proj_out"),
}
TOP: dict[str, Target] = {
    name.replace(".", "_"): to for name, to in (FLUX_TOP | FLUX2_TOP | HUNYUAN_TOP | SD3_TOP | WAN_TOP).items()
}
SHARED_TOP = (*FLUX_TOP, *HUNYUAN_TOP, *SD3_TOP, *WAN_TOP)
"""Layers outside every block that other models give these names too."""
WAN_ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "norm_k_img": "norm_added_k",
}
NEXT_DIT: dict[str, tuple[Target, ...]] = {
    "attention_qkv": (
        Target("attention.to_q", "first"),
        Target("attention.to_k", "keys"),
        Target("attention.to_v", "values"),
    ),
    "attention_out": (Target("attention.to_out.0"),),
    **{f"attention_to_{x}": (Target(f"attention.to_{x}"),) for x in "qkv"},
    "attention_to_out_0": (Target("attention.to_out.0"),),
    "attention_o": (Target("attention.to_out.0"),),  # Ideogram's
    "adaln_modulation": (Target("adaln_modulation"),),
    **{f"feed_forward_w{n}": (Target(f"feed_forward.w{n}"),) for n in (1, 2, 3)},
    **{f"adaLN_modulation_{n}": (Target(f"adaLN_modulation.{n}"),) for n in (0, 1)},
}
"""Z-Image's layers, and Lumina 2's until it is told from Z-Image (:func:`as_lumina`)."""
COSMOS: dict[str, tuple[Target, ...]] = {
    **{
        f"{attention}_attn_{theirs}": (Target(f"{ours}.{to}"),)
        for attention, ours in (("self", "attn1"), ("cross", "attn2"))
        for theirs, to in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("output_proj", "to_out.0"))
    },
    "mlp_layer1": (Target("ff.net.0.proj"),),
    "mlp_layer2": (Target("ff.net.2"),),
    **{
        f"adaln_modulation_{what}_{n}": (Target(f"norm{i}.linear_{n}"),)
        for i, what in enumerate(("self_attn", "cross_attn", "mlp"), start=1)
        for n in (1, 2)
    },
}
"""Cosmos Predict 2's and Anima's."""
STACKS: dict[str, tuple[str | None, dict[str, tuple[Target, ...]]]] = {
    **dict.fromkeys(("layers", "context_refiner", "noise_refiner"), (None, NEXT_DIT)),
    "blocks": ("transformer_blocks", COSMOS),
    "double_blocks": ("transformer_blocks", FLUX_DOUBLE),
    "single_blocks": ("single_transformer_blocks", FLUX_SINGLE | FLUX3),
    "content_mode_blocks": ("mode_blocks", FLUX3),
    "joint_blocks": ("transformer_blocks", SD3_JOINT),
}
"""By the name of the original code's stack: diffusers' name (None: the same), and its layers."""


def as_flux2(targets: tuple[Target, ...], width: int, rows: int) -> tuple[Target, ...]:
    """The layers of Flux 2, whose files name them as Flux 1's do; only their sizes differ: its feed-forward layers are
    three times as wide as what they take and gated, and single blocks are not taken apart.

    Args:
        width: numbers a layer takes. rows: numbers it gives.
    """
    block = targets[0].module.partition("attn.to_q")[0] if len(targets) == 4 else ""
    if block and rows == 9 * width:
        return (Target(f"{block}attn.to_qkv_mlp_proj"),)
    if len(targets) != 1:
        return targets
    module = targets[0].module
    if module.startswith("time_text_embed."):
        return (Target(module.replace("time_text_embed.", "time_guidance_embed.", 1)),)
    for old, new, fits in (
        (".net.0.proj", ".linear_in", rows == 6 * width),
        (".net.2", ".linear_out", width == 3 * rows),
    ):
        stem = module.removesuffix(old)
        if stem != module and fits and stem.endswith((".ff", ".ff_context")):
            return (Target(stem + new),)
    if module.startswith("single_") and module.endswith(".proj_out") and width == 4 * rows:
        return (Target(f"{module.removesuffix('proj_out')}attn.to_out"),)
    return targets


def as_lumina(module: str) -> str:
    """diffusers' name of Lumina 2's layer that Z-Image has under ``module``."""
    stack, dot, inner = module.partition(".attention.")
    if dot:
        return f"{stack}.attn.{inner}"
    return module.replace(".feed_forward.w", ".feed_forward.linear_").replace(".adaLN_modulation.1", ".norm1.linear")


_GUIDANCE = re.compile(
    r"distilled_guidance_layer_(?:(?P<end>in_proj|out_proj)|layers_(?P<n>\d+)_(?P<side>in_layer|linear_1|out_layer|linear_2))"
)
_HIDREAM = re.compile(
    r"(?P<stack>double|single)_stream_blocks_(?P<n>\d+)_block_(?:attn1_(?P<attn>to_(?:q|k|v|out)(?:_t)?)"
    r"|ff_(?P<ff>[it])_(?:(?P<shared>shared_experts)_|experts_(?P<expert>\d+)_)?(?P<w>w[123])|(?P<modulation>adaLN_modulation_1))"
)


def further_layer(flat: str) -> str | None:
    """A layer of Chroma or HiDream outside the stacks that other models have too, and blocks whose name is kept."""
    match = _GUIDANCE.fullmatch(flat)
    if match is not None:
        side = {"in_layer": "linear_1", "out_layer": "linear_2"}.get(match["side"], match["side"])
        inner = match["end"] or f"layers.{int(match['n'])}.{side}"
        return f"distilled_guidance_layer.{inner}"
    match = _HIDREAM.fullmatch(flat)
    if match is None:
        return None
    block = f"{match['stack']}_stream_blocks.{int(match['n'])}.block"
    if match["attn"]:
        return f"{block}.attn1.{match['attn']}"
    if match["modulation"]:
        return f"{block}.adaLN_modulation.1"
    expert = "shared_experts." if match["shared"] else f"experts.{int(match['expert'])}." if match["expert"] else ""
    return f"{block}.ff_{match['ff']}.{expert}{match['w']}"
