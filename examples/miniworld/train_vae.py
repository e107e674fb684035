"""Train the autoencoder of the mini world: 32x32 RGB photos <-> 8x8 latents with 8 channels.

``RANK=r WORLD_SIZE=n GROUP_KEY=vae python -m examples.miniworld.train_vae`` in n processes; resumable.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as fn

from examples.miniworld.parallel import Average, Group
from examples.miniworld.render import render
from examples.miniworld.world import sample_attributes, sample_nuisances

BUILD = Path(".build/miniworld")


def new_vae() -> AutoencoderKL:
    """About half a million parameters, few channels where there are many pixels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def photos(count: int, seed: int) -> torch.Tensor:
    """(count, 32, 32, 3) uint8: every photo another identity."""
    return torch.from_numpy(render(sample_attributes(count, seed), sample_nuisances(count, (seed, 7))))


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1], channels last in memory."""
    return (pixels.float() / 127.5 - 1.0).permute(0, 3, 1, 2)


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(vae: AutoencoderKL, x: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """L1 + squared error + L1 of the edges (what makes eyes sharp) + a trace of KL."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    y = y.float()
    edge = sum(fn.l1_loss(p, q) for p, q in zip(edges(y), edges(x), strict=True))
    loss = fn.l1_loss(y, x) + 2.0 * fn.mse_loss(y, x) + edge
    return loss + kl_weight * posterior.kl().mean()


def main() -> None:
    """Train until ``--steps``; the averaged weights go into ``vae.pt``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    vae = new_vae().to(memory_format=torch.channels_last)
    target = BUILD / "vae.pt"
    parameters = list(vae.parameters())
    group = Group(parameters)
    rank = group.rank
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    average = Average([vae], 0.998)
    first = 0
    if target.exists():
        state = torch.load(target)
        vae.load_state_dict(state["live"])
        optimiser.load_state_dict(state["optimiser"])
        average.shadow, average.steps, first = state["shadow"], state["steps"], state["steps"]
    pool = photos(40_000, 100)
    torch.manual_seed(1000 + rank + 10 * first)
    began = time.time()
    for step in range(first, args.steps):
        warm = min(1.0, (step + 1) / 100)
        lr = args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for options in optimiser.param_groups:
            options["lr"] = lr
        x = to_float(pool[torch.randint(len(pool), (args.batch,))])
        loss = loss_of(vae, x, 1e-6)
        optimiser.zero_grad()
        loss.backward()
        group.average_gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update()
        if rank == 0 and (step % 50 == 0 or step + 1 == args.steps):
            print(f"vae {step} loss {loss.item():.4f} {time.time() - began:.0f}s", flush=True)
        if rank == 0 and ((step + 1) % 500 == 0 or step + 1 == args.steps):
            live = {k: v.clone() for k, v in vae.state_dict().items()}
            average.swap()
            averaged = {k: v.clone() for k, v in vae.state_dict().items()}
            average.swap()
            state = {"live": live, "average": averaged, "shadow": average.shadow, "steps": step + 1}
            state["optimiser"] = optimiser.state_dict()
            torch.save(state, target.with_suffix(".tmp"))
            target.with_suffix(".tmp").replace(target)
            test = to_float(photos(256, 999)).float()
            vae.load_state_dict(averaged)
            with torch.no_grad():
                error = (vae.decode(vae.encode(test).latent_dist.mode()).sample - test).clamp(-2, 2)
            vae.load_state_dict(live)
            mse = error.square().mean().item() / 4
            print(f"vae {step + 1} held-out PSNR {-10 * np.log10(mse):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
