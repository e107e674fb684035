"""Pipelines of the real shapes with small random weights: Stable Diffusion 1.x, 2.x and XL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2w_registry.space.layout import Layout, layout_of

KINDS = ("sd1", "sd2", "sdxl")


def _tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that spells: every byte is a token, no merges."""
    import json

    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    tokens = [*symbols, *(s + "</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=24)


def _text_encoder(tokenizer: Any, width: int, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def build(kind: str, folder: Path) -> Path:
    """Save a pipeline of ``kind`` under ``folder`` and return where."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        EulerDiscreteScheduler,
        PNDMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(0)
    tokenizer = _tokenizer(folder / "tokens")
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.9,
    )
    common: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 8,
    }
    target = folder / kind
    if kind == "sdxl":
        unet = UNet2DConditionModel(
            **common,
            cross_attention_dim=32,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        )
        StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=_text_encoder(tokenizer, 16, False),
            text_encoder_2=_text_encoder(tokenizer, 16, True),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        ).save_pretrained(target)
        return target
    if kind == "sd2":
        unet = UNet2DConditionModel(
            **common, cross_attention_dim=16, attention_head_dim=(2, 4), use_linear_projection=True
        )
        scheduler: Any = DDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
    else:
        unet = UNet2DConditionModel(**common, cross_attention_dim=16, attention_head_dim=2)
        scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=_text_encoder(tokenizer, 16, False),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(target)
    return target


def layout(unet: Any, rank: int = 1, alpha: float = 4.0) -> Layout:
    """``to_q`` and ``to_v`` of attn1 and attn2, as the space of the public release has them."""
    shapes: dict[Any, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if name.endswith((".to_q", ".to_v")):
            shapes[name, "A"] = (rank, module.in_features)
            shapes[name, "B"] = (module.out_features, rank)
    return layout_of(shapes, alpha)


def theta(layout: Layout, seed: int, size: float = 0.2) -> np.ndarray:
    """A random θ (D,) that visibly changes what the UNet says."""
    return (np.random.default_rng(seed).normal(size=layout.dim) * size).astype(np.float32)


def photo(seed: int = 0, size: int = 32) -> np.ndarray:
    """Something with structure: coloured bars and a disc, (size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = rng.random(3) * x[..., None] + rng.random(3) * y[..., None]
    disc = ((x - 0.5) ** 2 + (y - 0.5) ** 2) < 0.1
    image[disc] = rng.random(3)
    return np.clip(image * 255, 0, 255).astype(np.uint8)
