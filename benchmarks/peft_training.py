"""DreamBooth LoRAs one identity at a time with PEFT: what batched training is measured against.

The usual script: ``LoraConfig`` on ``to_q`` and ``to_v``, AdamW, noise and timesteps drawn afresh, latents and the
text embedding encoded once (so that only training itself is compared).
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel
from w2w_registry.diffusion.train import denoising_target


def peft_train(
    model: DiffusionModel,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    samples: int,
    lr: float = 4e-3,
    alpha: float = 4.0,
    seed: int = 0,
) -> float:
    """Train one LoRA on photos (P, C, h, w) and take it out again; returns CPU seconds of the training loop."""
    from peft import LoraConfig

    unet = model.pipe.unet
    unet.add_adapter(
        LoraConfig(r=1, lora_alpha=alpha, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"), "bench"
    )
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    total = int(model.scheduler.config.num_train_timesteps)
    text = conditioning.text.expand(samples, *conditioning.text.shape)
    began = time.process_time()
    with model.conditioned(conditioning):
        for _ in range(steps):
            x = latents[torch.randint(len(latents), (samples,), generator=generator)]
            noise = torch.randn(x.shape, generator=generator)
            t = torch.randint(total, (samples,), generator=generator)
            noisy, target = denoising_target(model.scheduler, x, noise, t)
            loss = (unet(noisy, t, text).sample - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
    seconds = time.process_time() - began
    unet.unload_lora()
    unet.requires_grad_(False)
    return seconds
