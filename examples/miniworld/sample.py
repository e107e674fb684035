"""Drawing many pictures at once from the mini world's pipeline, with or without LoRAs, and contact sheets of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from examples.miniworld.pipeline import tokenise
from w2w_registry.diffusion.bank import LoraBank

Photos = NDArray[np.uint8]


@torch.no_grad()
def embed(pipeline: Any, texts: Sequence[str]) -> Tensor:
    """(N, L, E): what the UNet is told."""
    out: Tensor = pipeline.text_encoder(tokenise(pipeline.tokenizer, list(texts)))[0]
    return out


@torch.no_grad()
def sample(
    pipeline: Any,
    texts: Sequence[str],
    seeds: Sequence[int],
    bank: LoraBank | None = None,
    theta: Tensor | None = None,
    steps: int = 20,
    guidance: float = 2.5,
) -> Photos:
    """Pictures (N, 32, 32, 3), picture n from ``texts[n]``, ``seeds[n]`` and, with a bank, LoRA ``theta[n]`` (N, D)."""
    parts = []
    for start in range(0, len(texts), 64):
        rows = slice(start, start + 64)
        some = None if theta is None else theta[rows]
        parts.append(_sample(pipeline, texts[rows], seeds[rows], bank, some, steps, guidance))
    return np.concatenate(parts)


def _sample(
    pipeline: Any,
    texts: Sequence[str],
    seeds: Sequence[int],
    bank: LoraBank | None,
    theta: Tensor | None,
    steps: int,
    guidance: float,
) -> Photos:
    unet, scheduler = pipeline.unet, pipeline.scheduler
    # Guided and unguided halves go through the UNet together, as in the stock pipeline.
    text = torch.cat([embed(pipeline, [""] * len(texts)), embed(pipeline, texts)])
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    scheduler.set_timesteps(steps)
    group = torch.arange(len(texts))
    lora = bank.apply(theta, group) if bank is not None and theta is not None else nullcontext()
    with lora:
        for t in scheduler.timesteps:
            out = unet(torch.cat([x, x]).to(unet.dtype), t, text.to(unet.dtype)).sample.float()
            without, wanted = out.chunk(2)
            x = scheduler.step(without + guidance * (wanted - without), t, x).prev_sample
    pixels = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample
    return ((pixels.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def sheet(rows: Sequence[Photos], path: Path, zoom: int = 2, gap: int = 1) -> None:
    """Write rows of pictures, each (N, H, W, 3), as one PNG."""
    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    out = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            y, x = i * (height + gap), j * (width + gap)
            out[y : y + height, x : x + width] = picture
    big = Image.fromarray(out).resize((out.shape[1] * zoom, out.shape[0] * zoom), Image.Resampling.NEAREST)
    big.save(path, optimize=True)
