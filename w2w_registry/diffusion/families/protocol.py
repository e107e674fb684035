"""What every family of base models answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told about one prompt: ``text`` (L, E), and whatever else it wants (a pooled embedding,
    sizes) in ``added``."""

    text: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)


class Family(Protocol):
    """``network``: the part that LoRAs change. ``denoiser``: that part as a UNet is called, (latents (N, C, h, w),
    timesteps, text (N, L, E)) → ``.sample`` (N, C, h, w). ``noise``: the pipeline's scheduler as training needs it."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def denoiser(self) -> nn.Module: ...

    @property
    def noise(self) -> Any: ...

    @property
    def image_size(self) -> int:
        """Side of the square pictures the model was made for, in pixels."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of those pictures' latents."""
        ...

    @property
    def drawing(self) -> Mapping[str, Any]:
        """What the pipeline has to be told besides to draw pictures of that size."""
        ...

    def encode_text(self, prompt: str, device: torch.device) -> Conditioning:
        """One prompt as the denoiser reads it, without guidance."""
        ...

    def settle(self, device: torch.device) -> None:
        """Make it quick on this device; nothing but rounding changes."""
        ...
