"""A tiny UNet of Stable Diffusion's shape, whose attention projections are those of ``hub_world.tiny_layout``.

Run as a program it loads LoRA repos by id, in stock diffusers and in stock PEFT, and prints the UNet's outputs: a
process of its own, because those libraries read ``HF_ENDPOINT`` once, as they are imported.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def make_unet() -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
        mid_block_type=None,
    )
    return unet.eval()


def output(unet: Any) -> list[float]:
    """The UNet's answer to a fixed question, as float64."""
    import torch

    generator = torch.Generator().manual_seed(1)
    sample, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 12, generator=generator)
    with torch.no_grad():
        return [float(v) for v in unet(sample, 500, text).sample.flatten()]


def load(how: str, repo: str) -> Any:
    unet = make_unet()
    if how == "peft":
        from peft import PeftModel

        return PeftModel.from_pretrained(unet, repo)
    from diffusers import StableDiffusionPipeline

    # The loader stock pipelines use; a pipeline of nothing but its UNet is enough for it.
    parts: dict[str, Any] = dict.fromkeys(
        ["vae", "text_encoder", "tokenizer", "scheduler", "safety_checker", "feature_extractor"]
    )
    pipe = StableDiffusionPipeline(**parts, unet=unet, requires_safety_checker=False)
    pipe.load_lora_weights(repo, weight_name="pytorch_lora_weights.safetensors")
    return pipe.unet


if __name__ == "__main__":
    print(json.dumps([[how, repo, output(load(how, repo))] for repo in sys.argv[1:] for how in ("diffusers", "peft")]))
