"""Pipelines of the shapes of Flux and Stable Diffusion 3 with small random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.diffusion.tiny import _text_encoder, _tokenizer

KINDS = ("flux", "flux-guided", "sd3")


def _vae(channels: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.9,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def build(kind: str, folder: Path) -> Path:
    """Save a pipeline of ``kind`` under ``folder`` and return where."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder / "tokens")
    target = folder / kind
    (_sd3 if kind == "sd3" else _flux)(tokenizer, kind).save_pretrained(target)
    return target


def _flux(tokenizer: Any, kind: str) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    spelled = T5Tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=kind == "flux-guided",
    )
    t5 = T5Config(vocab_size=len(spelled), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(4),
        text_encoder=_text_encoder(tokenizer, 16, False),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=spelled,
        transformer=transformer,
    )


def _sd3(tokenizer: Any, kind: str) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4),
        text_encoder=_text_encoder(tokenizer, 16, True),
        tokenizer=tokenizer,
        text_encoder_2=_text_encoder(tokenizer, 16, True),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
