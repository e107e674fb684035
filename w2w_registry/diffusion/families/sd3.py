"""Stable Diffusion 3 and 3.5: latents go in as they are, timesteps are shifted by a fixed factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from w2w_registry.diffusion.families.flow import Denoiser, Flow
from w2w_registry.diffusion.families.protocol import Conditioning


class _Denoiser(Denoiser):
    def velocity(self, latents: Tensor, sigma: Tensor, text: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        answer = self.network(
            hidden_states=latents,
            timestep=(sigma * self.noise.config.num_train_timesteps).to(latents.dtype),
            encoder_hidden_states=text,
            pooled_projections=added["pooled"],
            return_dict=False,
        )
        return cast(Tensor, answer[0])


class StableDiffusion3:
    """See ``protocol.Family``."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.network: nn.Module = pipe.transformer
        self.noise = Flow(pipe.scheduler, float(pipe.scheduler.config.shift))
        self.denoiser: nn.Module = _Denoiser(self.network, self.noise)

    @property
    def image_size(self) -> int:
        return int(self.pipe.transformer.config.sample_size) * int(self.pipe.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = int(self.pipe.transformer.config.sample_size)
        return int(self.pipe.transformer.config.in_channels), side, side

    @property
    def drawing(self) -> Mapping[str, Any]:
        return {"height": self.image_size, "width": self.image_size}

    def encode_text(self, prompt: str, device: torch.device) -> Conditioning:
        text, _, pooled, _ = self.pipe.encode_prompt(
            prompt, None, None, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Conditioning(text[0], {"pooled": pooled[0]})

    def settle(self, device: torch.device) -> None:
        """Nothing to do."""
