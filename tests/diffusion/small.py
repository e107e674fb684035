"""A UNet small enough to train in a test, and the layout of its LoRAs."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from w2w_registry.space.layout import Layout, layout_of


def unet() -> UNet2DConditionModel:
    """4 latent channels, 8x8, cross-attention 12 wide; the same weights every time."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return model.eval()


def layout(model: UNet2DConditionModel) -> Layout:
    """Rank 2, alpha 6, on ``to_q`` and ``to_v``."""
    shapes = {}
    for name, module in model.named_modules():
        if name.endswith((".to_q", ".to_v")):
            shapes[name, "A"] = (2, module.in_features)
            shapes[name, "B"] = (module.out_features, 2)
    return layout_of(shapes, 6.0)
