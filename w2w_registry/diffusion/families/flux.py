"""Flux.1: latents packed two by two into tokens, timesteps shifted by their number, guidance told in a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from w2w_registry.diffusion.families.flow import Denoiser, Flow
from w2w_registry.diffusion.families.protocol import Conditioning

PATCH: Final = 2
TRAINED_AT: Final = 1.0
"""Guidance that a distilled model is told while LoRAs are trained and asked: none."""


def pack(latents: Tensor) -> Tensor:
    """(N, C, h, w) → tokens (N, hw/4, 4C), a token for every two by two positions."""
    n, c, h, w = latents.shape
    cut = latents.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, (h // PATCH) * (w // PATCH), c * PATCH * PATCH)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of ``pack``: (N, C, height, width)."""
    n, _, size = tokens.shape
    cut = tokens.reshape(n, height // PATCH, width // PATCH, size // PATCH**2, PATCH, PATCH)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(n, size // PATCH**2, height, width)


def places(height: int, width: int, like: Tensor) -> Tensor:
    """Where each token is, (hw/4, 3): zero, row, column."""
    rows, columns = height // PATCH, width // PATCH
    found = torch.zeros(rows, columns, 3, device=like.device, dtype=like.dtype)
    found[..., 1] += torch.arange(rows, device=like.device, dtype=like.dtype)[:, None]
    found[..., 2] += torch.arange(columns, device=like.device, dtype=like.dtype)[None, :]
    return found.reshape(-1, 3)


class _Denoiser(Denoiser):
    def velocity(self, latents: Tensor, sigma: Tensor, text: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        height, width = latents.shape[2:]
        told = self.network.config.guidance_embeds
        answer = self.network(
            hidden_states=pack(latents),
            timestep=sigma.to(latents.dtype),  # the network multiplies by a thousand itself
            guidance=torch.full_like(sigma, TRAINED_AT, dtype=latents.dtype) if told else None,
            pooled_projections=added["pooled"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=latents.device, dtype=latents.dtype),
            img_ids=places(height, width, latents),
            return_dict=False,
        )
        return unpack(answer[0], height, width)


class Flux:
    """See ``protocol.Family``."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.network: nn.Module = pipe.transformer
        self.noise = Flow(pipe.scheduler, self._shift())
        self.denoiser: nn.Module = _Denoiser(self.network, self.noise)

    def _shift(self) -> float:
        """The scheduler's shift for pictures of this size: log s grows linearly with the number of tokens."""
        config = self.pipe.scheduler.config
        if not config.use_dynamic_shifting:
            return float(config.shift)
        _, height, width = self.latent_shape
        tokens = (height // PATCH) * (width // PATCH)
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return math.exp(config.base_shift + slope * (tokens - config.base_image_seq_len))

    @property
    def image_size(self) -> int:
        unit = int(self.pipe.vae_scale_factor) * PATCH
        return max(unit, int(self.pipe.vae.config.sample_size) // unit * unit)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // int(self.pipe.vae_scale_factor)
        return int(self.pipe.transformer.config.in_channels) // PATCH**2, side, side

    @property
    def drawing(self) -> Mapping[str, Any]:
        return {"height": self.image_size, "width": self.image_size}

    def encode_text(self, prompt: str, device: torch.device) -> Conditioning:
        text, pooled, _ = self.pipe.encode_prompt(prompt, None, device=device, num_images_per_prompt=1)
        return Conditioning(text[0], {"pooled": pooled[0]})

    def settle(self, device: torch.device) -> None:
        """Nothing to do."""
