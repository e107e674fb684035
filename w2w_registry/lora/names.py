"""Names of layers: what other tools call them <-> what diffusers calls them.

kohya flattens dots to underscores, which only a grammar of layer names can undo; its SDXL files and ComfyUI's use the
older names of the original code (``input_blocks``, ``double_blocks``, ``joint_blocks``). Flux and SD3 fuse q, k and v
into one layer there: such a name stands for several of diffusers' layers, each with some rows of the fused one.
Sources: diffusers' conversion scripts and the models' own module names. A name no grammar knows is kept as the file
has it: the layer is then known by its file's name, and never by a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from w2w_registry.lora.others import is_language_layer
from w2w_registry.lora.targets import STACKS, TOP, WAN_ATTENTION, Layer, Target, further_layer, hunyuan_dit_layer

DENOISERS = ("unet", "transformer")


class UnknownKey(Exception):
    """A name no grammar knows; the argument says why, in a phrase."""


# -- parts of a pipeline ------------------------------------------------------------------------------
_PREFIXES = {
    "unet.": "unet",
    "transformer.": "transformer",
    "text_encoder.": "text_encoder",
    "text_encoder_1.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_3",
    "clip_l.transformer.": "text_encoder",
    "clip_g.transformer.": "text_encoder_2",
    "clip_l.": "text_encoder",
    "clip_g.": "text_encoder_2",
    "t5.": "text_encoder_3",
    "prior.": "prior",
    "vae.": "vae",
}
_PARTS = frozenset(_PREFIXES.values())
_UNET_ROOTS = (
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "conv_in",
    "conv_out",
    "conv_norm_out",
    "time_embedding.",
    "add_embedding.",
)
_TRANSFORMER_ROOTS = (
    "transformer_blocks.",
    "single_transformer_blocks.",
    "x_embedder",
    "context_embedder",
    "time_text_embed.",
    "proj_out",
    "norm_out.",
    "pos_embed.",
    "adaln_single.",
    "caption_projection.",
    "caption_embedder.",
    "time_embed.",
    "time_caption_embed.",
)
# Wan's blocks, where no prefix says what they are of
_BARE_BLOCKS = re.compile(r"blocks\.\d+\.(?:self_attn|cross_attn|ffn|attn1|attn2)\b.*")
# Llama's original code has layers of this name too.
_ANY_MODEL = re.compile(r"layers\.\d+\.feed_forward\.w[123]")
# What wrapping a model for training puts before its names, and what may stand there besides.
_WRAPPERS = ("module.", "_orig_mod.")
_HOLDERS = ("base_model.model.", "base_model.", "pipe.", "pipeline.", "dit.", "model.", "network.", "net.")
_CLIP = re.compile(r"(?:text_model\.)?(?:encoder\.layers\.\d+\..*|text_projection|final_layer_norm)|text_model\..*")


def dotted_layer(stem: str, *, processor: bool = False, held: int = 3) -> Layer:
    """The layer a dotted name means: PEFT's and diffusers' (with the part in front, or not), or ComfyUI's. ``held``: so
    many names of what holds the model may stand in front."""
    for wrapper in _WRAPPERS:
        stem = stem.removeprefix(wrapper)
    if is_language_layer(stem):
        return Layer("language model", (Target(stem),))
    for prefix, part in _PREFIXES.items():
        if stem.startswith(prefix):
            rest = _bared(stem.removeprefix(prefix), part)
            module = _plain_module(rest, processor) if part in DENOISERS else _plain_text(rest)
            if part == "transformer" and _original(rest) is not None:
                return _original_layer(rest)
            return Layer(part, (Target(module),))
    if stem.startswith("lora_unet_"):  # with the layer's dots left as they were
        layer = flat_layer(stem.replace(".", "_"))
        if layer is not None and layer.part in DENOISERS:
            return layer
    for prefix in ("model.diffusion_model.", "diffusion_model.", "diffusion."):
        if stem.startswith(prefix):
            return _original_layer(stem.removeprefix(prefix))
    module = _plain_module(stem, processor)
    if module.startswith(_UNET_ROOTS):
        return Layer("unet", (Target(module),))
    if not _ANY_MODEL.fullmatch(stem) and _original(stem) is not None:
        return _original_layer(stem)
    if module.startswith(_TRANSFORMER_ROOTS) or _BARE_BLOCKS.fullmatch(module):
        return Layer("transformer", (Target(module),))
    if _CLIP.fullmatch(stem):
        return Layer("text_encoder", (Target(_plain_text(stem)),))
    for holder in _HOLDERS if held else ():
        if stem.startswith(holder):
            layer = dotted_layer(stem.removeprefix(holder), processor=processor, held=held - 1)
            return layer if layer.part in _PARTS else Layer("model", (Target(stem),))
    return Layer("model", (Target(stem),))


def _bared(rest: str, part: str) -> str:
    """A denoiser's layer without what wrapping the model for training put between the part's name and its own; as it
    is where no layer that is known is left."""
    roots = {"unet": _UNET_ROOTS, "transformer": _TRANSFORMER_ROOTS}.get(part)
    own = rest
    while roots is not None and not own.startswith(roots):
        wrapper = next((w for w in (*_WRAPPERS, *_HOLDERS, f"{part}.") if own.startswith(w)), None)
        if wrapper is None:
            return rest
        own = own.removeprefix(wrapper)
    return own


def _original_layer(rest: str) -> Layer:
    found = _original(rest)
    if found is not None:
        return found
    module = _plain_module(rest, False)
    part = "unet" if module.startswith(_UNET_ROOTS) else "transformer"
    return Layer(part, (Target(module),))


def _plain_module(module: str, processor: bool) -> str:
    """``…attn1.processor.to_q`` (attention processor era) → ``…attn1.to_q``; ``to_out`` → ``to_out.0``."""
    head, dot, tail = module.rpartition(".")
    if processor or head.endswith(".processor"):
        head, tail = head.removesuffix(".processor"), tail.removesuffix("_lora")
        tail = "to_out.0" if tail == "to_out" else tail
    return f"{head}{dot}{tail}"


_TEXT_PROCESSOR = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


_FLAT_CLIP_LAYER = re.compile(r"encoder\.layers\.\d+\.(?:self_attn|mlp|layer_norm).*|embeddings\..*|final_layer_norm")


def _plain_text(module: str) -> str:
    """A text encoder's layer under the name it always had: transformers 5 leaves CLIP's ``text_model.`` out."""
    head, dot, tail = module.rpartition(".")
    module = f"{head}{dot}{_TEXT_PROCESSOR.get(tail, tail)}" if head.endswith("self_attn") else module
    return f"text_model.{module}" if _FLAT_CLIP_LAYER.fullmatch(module) else module


# -- the original code's names, flat or dotted ------------------------------------------------------------
_WAN = re.compile(
    r"blocks_(?P<n>\d+)_(?:(?P<attn>self|cross)_attn_(?P<x>q|k|v|o|k_img|v_img|norm_q|norm_k|norm_k_img)|ffn_(?P<ff>[02]))"
)
_ORIGINAL = re.compile(rf"(?P<stack>{'|'.join(STACKS)})_(?P<n>\d+)_(?P<inner>\w+)")


def _original(name: str) -> Layer | None:
    """A layer named as the original code of a model does (SD, SDXL, Flux, SD3, Wan, Lumina 2, Z-Image, Cosmos, Chroma,
    HiDream, HunyuanDiT), with dots or underscores."""
    flat = name.replace(".", "_")
    wan = _WAN.fullmatch(flat)
    if wan is not None:
        if wan["ff"]:
            name = f"ffn.net.{'0.proj' if wan['ff'] == '0' else '2'}"
        else:
            name = f"{'attn1' if wan['attn'] == 'self' else 'attn2'}.{WAN_ATTENTION[wan['x']]}"
        return Layer("transformer", (Target(f"blocks.{int(wan['n'])}.{name}"),))
    whole = (TOP[flat],) if flat in TOP else hunyuan_dit_layer(flat)
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
    module = _TOP.get(flat) if flat in _LDM_TOP else _from_ldm_name(flat)
    return None if module is None else Layer("unet", (Target(module),))


# -- flattened names of diffusers' transformers and of text encoders ---------------------------------------
_INNER = (
    *(f"{attn}.to_{x}" for attn in ("attn", "attn1", "attn2") for x in ("q", "k", "v", "out.0", "add_out")),
    *(f"attn.add_{x}_proj" for x in "qkv"),
    *(f"{ff}.net.{x}" for ff in ("ff", "ff_context", "img_mlp", "txt_mlp") for x in ("0.proj", "2")),
    *("norm.linear", "norm1.linear", "norm1_context.linear", "proj_mlp", "proj_out", "img_mod.1", "txt_mod.1"),
)
_FLAT_TOP = {
    re.sub(r"[.-]", "_", name): name
    for name in (
        *("x_embedder", "context_embedder", "proj_out", "norm_out.linear", "pos_embed.proj", "adaln_single.linear"),
        *(f"time_text_embed.{x}_embedder.linear_{n}" for x in ("timestep", "text", "guidance") for n in (1, 2)),
        *(
            "cap_embedder.1",
            "all_x_embedder.2-1",
            "all_final_layer.2-1.linear",
            "all_final_layer.2-1.adaLN_modulation.1",
        ),
    )
}
_FLAT_INNER = {name.replace(".", "_"): name for name in _INNER}
_FLAT_STACK = re.compile(r"(?P<stack>transformer_blocks|single_transformer_blocks|blocks)_(?P<n>\d+)_(?P<inner>\w+)")
_FLAT_CLIP = re.compile(
    r"text_model_encoder_layers_(?P<n>\d+)_(?:self_attn_(?P<attn>[qkv]_proj|out_proj)|mlp_(?P<mlp>fc[12]))"
)
_FLAT_T5 = re.compile(
    r"encoder_block_(?P<n>\d+)_layer_(?P<m>\d+)_(?:(?P<attn>SelfAttention)_(?P<a>[qkvo])|(?P<ff>DenseReluDense)_(?P<f>wi_0|wi_1|wi|wo))"
)
_FLAT_TEXT = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
_FLAT = re.compile(r"(?P<tool>lora|lycoris|oft)_(?P<what>unet|te[123]?|transformer|prior_unet)_(?P<flat>.+)")


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
    match = _FLAT_STACK.fullmatch(flat)
    if match is not None and match["inner"] in _FLAT_INNER:
        name = f"{match['stack']}.{int(match['n'])}.{_FLAT_INNER[match['inner']]}"
        return Layer("transformer", (Target(name),))
    if flat in _FLAT_TOP:
        return Layer("transformer", (Target(_FLAT_TOP[flat]),))
    original = _original(flat)
    if original is not None:
        return original
    try:
        return Layer("unet", (Target(kohya_to_module(f"lora_unet_{flat}")),))
    except UnknownKey:
        return Layer("model", (Target(stem),))


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


# -- kohya --------------------------------------------------------------------------------------
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


def denoiser_of(modules: Iterable[str]) -> str:
    """Which denoiser has modules of these names: ``unet`` or ``transformer``."""
    return "unet" if any(m.startswith(_UNET_ROOTS) for m in modules) else "transformer"


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
