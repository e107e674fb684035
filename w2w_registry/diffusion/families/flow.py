"""What transformers that learned a flow have in common (rectified flow: Liu et al. 2022; Esser et al. 2024, section 3).

A picture x and noise n are joined by a straight line, z = (1 − σ) x + σ n, and the model predicts its direction, n − x.
Timesteps are shifted towards noise, the more the larger the picture: σ = s u / (1 + (s − 1) u) for u = t / T.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor, nn


class Flow:
    """A flow-matching scheduler as training needs it. ``shift``: s above."""

    def __init__(self, scheduler: Any, shift: float) -> None:
        self.shift = shift
        self.config = SimpleNamespace(
            num_train_timesteps=int(scheduler.config.num_train_timesteps), prediction_type="flow"
        )

    def sigma(self, timesteps: Tensor) -> Tensor:
        """How much noise there is at timesteps 0 … T − 1, float32."""
        u = (timesteps.float() + 1.0) / self.config.num_train_timesteps
        shifted: Tensor = self.shift * u / (1.0 + (self.shift - 1.0) * u)
        return shifted

    def denoising_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(noisy latents, what the model should predict), each (N, C, h, w)."""
        sigma = self.sigma(timesteps).to(latents.device, latents.dtype)[:, None, None, None]
        return (1.0 - sigma) * latents + sigma * noise, noise - latents


class Denoiser(nn.Module):
    """A transformer that is called as a UNet is. Its modules, weights and names are the transformer's own."""

    network: Any

    def __init__(self, network: nn.Module, noise: Flow) -> None:
        super().__init__()
        self.__dict__["network"] = network  # not registered: what it is made of is the network's, under its names
        self.noise = noise

    @abstractmethod
    def velocity(self, latents: Tensor, sigma: Tensor, text: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        """The network's answer (N, C, h, w) to latents (N, C, h, w) at ``sigma`` (N,)."""

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
    ) -> SimpleNamespace:
        sigma = self.noise.sigma(timesteps).to(latents.device).expand(len(latents))
        return SimpleNamespace(sample=self.velocity(latents, sigma, encoder_hidden_states, added_cond_kwargs or {}))

    def named_modules(self, *args: Any, **more: Any) -> Iterator[tuple[str, nn.Module]]:
        return cast(Iterator[tuple[str, nn.Module]], self.network.named_modules(*args, **more))

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return cast(Iterator[nn.Parameter], self.network.parameters(recurse))

    def state_dict(self, *args: Any, **more: Any) -> Any:
        return self.network.state_dict(*args, **more)

    def enable_gradient_checkpointing(self) -> None:
        self.network.enable_gradient_checkpointing()

    def disable_gradient_checkpointing(self) -> None:
        self.network.disable_gradient_checkpointing()
