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

from w2w_registry.lora.flat import flat_layer
from w2w_registry.lora.originals import original_layer
from w2w_registry.lora.others import is_language_layer
from w2w_registry.lora.targets import Layer, Target
from w2w_registry.lora.unets import UNET_ROOTS

DENOISERS = ("unet", "transformer")


# -- parts of a pipeline ------------------------------------------------------------------------------
_PREFIXES = {
    "unet.": "unet",
    "transformer.": "transformer",
    "text_encoder.": "text_encoder",
    "text_encoder_1.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "text_encoder_4.": "text_encoder_4",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_3",
    "clip_l.transformer.": "text_encoder",
    "clip_g.transformer.": "text_encoder_2",
    "clip_l.": "text_encoder",
    "clip_g.": "text_encoder_2",
    "t5.": "text_encoder_3",
    "transformer_2.": "transformer_2",
    "text_conditioner.": "text_conditioner",
    "connectors.": "connectors",
    "prior.": "prior",
    "vae.": "vae",
}
_PARTS = frozenset(_PREFIXES.values())
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
    "patch_embed.",
    # Kandinsky's, aMUSEd's, JoyImage's
    "visual_transformer_blocks.",
    "text_transformer_blocks.",
    "audio_text_transformer_blocks.",
    "video_text_transformer_blocks.",
    "transformer_layers.",
    "down_block.",
    "up_block.",
    "double_blocks.",
)
# Language models are text encoders too, of newer pipelines.
_TEXT_ENCODERS = re.compile(r"text_encoders?(?:_[1-4])?\.(?:[\w-]+\.transformer\.)?")
# Wan's blocks, where no prefix says what they are of
_BARE_BLOCKS = re.compile(r"blocks\.\d+\.(?:self_attn|cross_attn|ffn|attn1|attn2)\b.*")
# What diffusers calls the projections of every attention, and no language model does.
_ATTENTION = re.compile(r".+\.(?:to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)")
# Llama's original code has layers of this name too.
_ANY_MODEL = re.compile(r"layers\.\d+\.feed_forward\.w[123]")
# What wrapping a model for training puts before its names, and what may stand there besides.
_WRAPPERS = ("module.", "_orig_mod.")
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_HOLDERS = ("base_model.model.", "base_model.", "pipe.", "pipeline.", "dit.", "model.", "network.", "net.")
# What stands before the names of a denoiser's original code.
_ORIGINALS = ("model.diffusion_model.", "diffusion_model.", "diffusion.")
_CLIP = re.compile(r"(?:text_model\.)?(?:encoder\.layers\.\d+\..*|text_projection|final_layer_norm)|text_model\..*")


def dotted_layer(stem: str, *, processor: bool = False, held: int = 3) -> Layer:
    """The layer a dotted name means: PEFT's and diffusers' (with the part in front, or not), or ComfyUI's. ``held``: so
    many names of what holds the model may stand in front."""
    stem = _WRAPPED.sub("", stem).removeprefix("module.")  # blocks may be wrapped one by one
    stem = stem.removesuffix(".base_layer")  # the layer's own weights, which PEFT may save beside its factors
    encoder = _TEXT_ENCODERS.match(stem)
    within = stem.startswith(_ORIGINALS)
    if encoder is None and not within and is_language_layer(stem) and not _ATTENTION.fullmatch(stem):
        return Layer("language model", (Target(stem),))
    for prefix, part in _PREFIXES.items():
        if stem.startswith(prefix):
            rest = _bared(stem.removeprefix(prefix), part)
            module = _plain_module(rest, processor) if part in DENOISERS else _plain_text(rest)
            if part == "transformer" and original_layer(rest) is not None:
                return _in_original(rest)
            return Layer(part, (Target(module),))
    if encoder is not None:
        return Layer("text_encoder", (Target(_plain_text(stem[encoder.end() :])),))
    if stem.startswith("lora_unet_"):  # with the layer's dots left as they were
        layer = flat_layer(stem.replace(".", "_"))
        if layer is not None and layer.part in DENOISERS:
            return layer
    for prefix in _ORIGINALS:
        if stem.startswith(prefix):
            return _in_original(stem.removeprefix(prefix))
    module = _plain_module(stem, processor)
    if module.startswith(UNET_ROOTS):
        return Layer("unet", (Target(module),))
    if not _ANY_MODEL.fullmatch(stem) and original_layer(stem) is not None:
        return _in_original(stem)
    if module.startswith(_TRANSFORMER_ROOTS) or _BARE_BLOCKS.fullmatch(module):
        return Layer("transformer", (Target(module),))
    if _CLIP.fullmatch(stem):
        return Layer("text_encoder", (Target(_plain_text(stem)),))
    for holder in _HOLDERS if held else ():
        if stem.startswith(holder):
            layer = dotted_layer(stem.removeprefix(holder), processor=processor, held=held - 1)
            return layer if layer.part in _PARTS else Layer("model", (Target(stem),))
    return Layer("transformer" if _ATTENTION.fullmatch(module) else "model", (Target(stem),))


def _bared(rest: str, part: str) -> str:
    """A denoiser's layer without what wrapping the model for training put between the part's name and its own; as it
    is where no layer that is known is left."""
    roots = {"unet": UNET_ROOTS, "transformer": _TRANSFORMER_ROOTS}.get(part)
    own = rest
    while roots is not None and not own.startswith(roots):
        wrapper = next((w for w in (*_WRAPPERS, *_HOLDERS, f"{part}.") if own.startswith(w)), None)
        if wrapper is None:
            return rest
        own = own.removeprefix(wrapper)
    return own


def _in_original(rest: str) -> Layer:
    found = original_layer(rest)
    if found is not None:
        return found
    module = _plain_module(rest, False)
    part = "unet" if module.startswith(UNET_ROOTS) else "transformer"
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


def denoiser_of(modules: Iterable[str]) -> str:
    """Which denoiser has modules of these names: ``unet`` or ``transformer``."""
    return "unet" if any(m.startswith(UNET_ROOTS) for m in modules) else "transformer"
