"""The paper's inversion procedure, written straightforwardly, to measure ours against.

weights2weights §3.4 and its appendix: start at the average identity, Adam with learning rate 0.1 on the coordinates,
weight decay 1e-10, 400 steps, one noisy copy of the photo and one random timestep a step.  Every LoRA module keeps its
own rows of V and builds its A and B from the coordinates in each forward pass, so the gradient comes back through one
product per module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel
from w2w_registry.diffusion.train import denoising_target
from w2w_registry.space.layout import Layout


class _Module(nn.Module):
    """A Linear whose LoRA factors are rows of the weight space, taken at the shared coordinates."""

    def __init__(
        self, linear: nn.Module, parts: dict[str, dict[str, Tensor]], scale: float, point: nn.Parameter
    ) -> None:
        super().__init__()
        self.linear, self.parts, self.scale, self.point = linear, parts, scale, point

    def factor(self, name: str) -> Tensor:
        part = self.parts[name]
        flat = (part["v"] @ self.point) * part["std"] + part["mean"]
        return flat.reshape(tuple(part["shape"].tolist()))

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        low = x @ self.factor("A").T
        out: Tensor = self.linear(x) + self.scale * (low @ self.factor("B").T)
        return out


def paper_invert(
    model: DiffusionModel,
    layout: Layout,
    arrays: dict[str, np.ndarray],
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int = 400,
    lr: float = 0.1,
    seed: int = 0,
    mask: Tensor | None = None,
    callback: Callable[[int, np.ndarray], bool] | None = None,
) -> np.ndarray:
    """Coordinates (k,) of one photo, latents (C, h, w); ``arrays``: mean (D,), std (D,), components (D, k).

    ``callback`` sees (steps done, coordinates) and ends the walk by returning True.
    """
    point = nn.Parameter(torch.zeros(arrays["components"].shape[1]))
    places = {tensor.key: (tensor, part) for tensor, part in layout.slices()}
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for name in layout.modules:
        parent_name, _, leaf = name.rpartition(".")
        parent = model.unet.get_submodule(parent_name)
        parts = {}
        for factor in ("A", "B"):
            tensor, part = places[name, factor]
            parts[factor] = {
                "v": torch.from_numpy(np.ascontiguousarray(arrays["components"][part])),
                "std": torch.from_numpy(arrays["std"][part].copy()),
                "mean": torch.from_numpy(arrays["mean"][part].copy()),
                "shape": torch.tensor(tensor.shape),
            }
        linear = getattr(parent, leaf)
        replaced.append((parent, leaf, linear))
        setattr(parent, leaf, _Module(linear, parts, layout.scale(name), point))
    optimiser = torch.optim.Adam([point], lr=lr, weight_decay=1e-10)
    generator = torch.Generator().manual_seed(seed)
    total = int(model.scheduler.config.num_train_timesteps)
    weights = torch.ones(latents.shape[1:]) if mask is None else mask
    x = latents[None].float()
    text = conditioning.text[None]
    try:
        with model.conditioned(conditioning):
            for step in range(steps):
                noise = torch.randn(x.shape, generator=generator)
                t = torch.randint(0, total, (1,), generator=generator)
                noisy, target = denoising_target(model.scheduler, x, noise, t)
                out = model.unet(noisy, t, text).sample
                loss = ((out - target).square() * weights).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if callback is not None and callback(step + 1, point.detach().numpy().copy()):
                    break
    finally:
        for parent, leaf, linear in replaced:
            setattr(parent, leaf, linear)
    return point.detach().numpy().copy()
