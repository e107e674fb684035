"""Train the attribute readers on renders, seen as they are, blurred, noisy and through the autoencoder.

``python -m examples.miniworld.train_readers`` (after ``train_unet cache``): a few minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from examples.miniworld.parallel import Average
from examples.miniworld.readers import Readers
from examples.miniworld.render import render
from examples.miniworld.train_unet import decode, encode
from examples.miniworld.train_vae import BUILD, new_vae, to_float
from examples.miniworld.world import ATTRIBUTES, CONTINUOUS, Array, sample_attributes, sample_nuisances


def accuracy(readings: Array, truth: Array) -> dict[str, float]:
    """Per attribute: R² of continuous ones, share right of yes/no ones; both (N, attributes)."""
    found = {}
    for i, name in enumerate(ATTRIBUTES):
        r, t = readings[:, i], truth[:, i]
        if i < len(CONTINUOUS):
            found[name] = float(1.0 - np.square(r - t).mean() / np.square(t - t.mean()).mean())
        else:
            found[name] = float(((r > 0.5) == (t > 0.5)).mean())
    return found


def augment(x: Tensor) -> Tensor:
    """(N, 3, 32, 32) in [-1, 1]: some blurred, some noisy, some dimmed."""
    count = len(x)
    blurred = fn.avg_pool2d(fn.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, 0.7 * torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5))
    x = x + 0.08 * torch.rand(count, 1, 1, 1) * torch.randn_like(x)
    return (x * (1.0 + 0.1 * (torch.rand(count, 1, 1, 1) - 0.5))).clamp(-1, 1)


def loss_of(out: Tensor, truth: Tensor) -> Tensor:
    cut = len(CONTINUOUS)
    regress = fn.smooth_l1_loss(out[:, :cut], truth[:, :cut], beta=0.1)
    return regress * 5.0 + fn.binary_cross_entropy_with_logits(out[:, cut:], truth[:, cut:])


def main() -> None:
    """Train, print held-out accuracy, write ``readers.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=36_000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = new_vae().to(memory_format=torch.channels_last).eval()
    vae.load_state_dict(torch.load(BUILD / "vae_white.pt"))
    truth = sample_attributes(args.photos, 300)
    pixels = torch.from_numpy(render(truth, sample_nuisances(args.photos, (300, 7))))
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode(vae, pixels).float()
    # Jittered latents: what generation gets wrong looks like this rather than like pixel noise.
    latents += 0.15 * torch.rand(len(latents), 1, 1, 1) * torch.randn_like(latents)
    seen = torch.cat([decode_fast(vae, part) for part in latents.split(512)])
    labels = torch.from_numpy(truth)
    readers = Readers().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(readers.parameters(), lr=2e-3, weight_decay=1e-3)
    average = Average([readers], 0.998)
    began = time.time()
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        rows = torch.randint(args.photos, (args.batch,))
        half = args.batch // 2
        x = to_float(torch.cat([pixels[rows[:half]], seen[rows[half:]]]))
        loss = loss_of(readers(augment(x)), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update()
        if step % 200 == 0:
            print(f"readers {step} loss {loss.item():.4f} {time.time() - began:.0f}s", flush=True)
    average.swap()
    readers.eval()
    test = sample_attributes(2000, 301)
    shown = render(test, sample_nuisances(2000, (301, 7)))
    through = decode(vae, encode(vae, torch.from_numpy(shown)))
    for kind, photos in (("renders", shown), ("through the autoencoder", through)):
        print(kind, {k: round(v, 3) for k, v in accuracy(readers.read(photos), test).items()}, flush=True)
    readers.save(BUILD / "readers.safetensors")


@torch.no_grad()
def decode_fast(vae: torch.nn.Module, latents: Tensor) -> Tensor:
    """As ``decode``, in bfloat16 and as a tensor."""
    with torch.autocast("cpu", torch.bfloat16):
        return torch.from_numpy(decode(vae, latents))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
