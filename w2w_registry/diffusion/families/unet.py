"""Stable Diffusion 1.x, 2.x and XL: a UNet and a schedule of noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import nn

from w2w_registry.diffusion.families.protocol import Conditioning

SMALL: Final = 1024
"""Latent positions up to which attention is small enough to be written out."""


class Unet:
    """The pipeline's own UNet and scheduler, as they are."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def network(self) -> nn.Module:
        return cast(nn.Module, self.pipe.unet)

    @property
    def denoiser(self) -> nn.Module:
        return self.network

    @property
    def noise(self) -> Any:
        return self.pipe.scheduler

    @property
    def image_size(self) -> int:
        size = self.pipe.unet.config.sample_size
        side = size if isinstance(size, int) else min(size)
        return int(side) * int(self.pipe.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // int(self.pipe.vae_scale_factor)
        return int(self.pipe.unet.config.in_channels), side, side

    @property
    def drawing(self) -> Mapping[str, Any]:
        return {}

    def encode_text(self, prompt: str, device: torch.device) -> Conditioning:
        asked: dict[str, Any] = {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        if hasattr(self.pipe, "text_encoder_2"):
            text, _, pooled, _ = self.pipe.encode_prompt(prompt, **asked)
            side = self.image_size
            sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=text.dtype, device=device)
            return Conditioning(text[0], {"text_embeds": pooled[0], "time_ids": sizes[0]})
        text, _ = self.pipe.encode_prompt(prompt, **asked)
        return Conditioning(text[0])

    def settle(self, device: torch.device) -> None:
        # Convolutions are faster when the channels of a pixel lie side by side, on the CPU and on tensor cores.
        cast(Any, self.network).to(memory_format=torch.channels_last)
        _, height, width = self.latent_shape
        if device.type == "cpu" and height * width <= SMALL:
            from diffusers.models.attention_processor import AttnProcessor

            # Torch's fused attention has no bfloat16 backward worth the name on the CPU: plain products train twice as
            # fast. They cost memory with the square of the latents, so this is for small pictures only.
            self.pipe.unet.set_attn_processor(AttnProcessor())
