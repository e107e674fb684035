"""LoRAs of a made-up layout for the services' tests: identities on a plane of a weight space, with repeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora import write_lora
from w2w_registry.space.layout import Layout, layout_of

BASE = "tiny/base"
AXES = 24


def tiny_layout(rank: int = 1, alpha: float = 4.0) -> Layout:
    module = "{}.attentions.0.transformer_blocks.0.attn{}.to_{}"
    shapes = {}
    for block in ("down_blocks.0", "up_blocks.1"):
        for attn in (1, 2):
            for part in "qv":
                shapes[(module.format(block, attn, part), "A")] = (rank, 8)
                shapes[(module.format(block, attn, part), "B")] = (6, rank)
    return layout_of(shapes, alpha)  # type: ignore[arg-type]


@dataclass(frozen=True)
class World:
    """``identities`` (n, AXES): where each identity lies; θ = mean + identity · axes + the noise of its training."""

    layout: Layout
    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    identities: NDArray[np.float64]

    def theta(self, index: int, training: int = 0, noise: float = 0.05) -> NDArray[np.float32]:
        rng = np.random.default_rng([index, training])
        return (self.mean + self.identities[index] @ self.axes + noise * rng.normal(size=self.layout.dim)).astype(
            np.float32
        )

    def write(self, folder: Path, indices: range, training: int = 0, **options: object) -> Path:
        """PEFT folders ``folder/p0000``…"""
        for i in indices:
            tensors = self.layout.unflatten(self.theta(i, training))
            write_lora(folder / f"p{i:04d}", tensors, self.layout.alpha, base_model=BASE, **options)  # type: ignore[arg-type]
        return folder


def make_world(count: int = 80, seed: int = 0, axes: int = AXES) -> World:
    rng = np.random.default_rng(seed)
    layout = tiny_layout()
    # LoRAs of one space start from one A and leave it by little: identities differ in B above all.
    moves = np.concatenate([np.full(t.size, 0.05 if t.factor == "A" else 1.0) for t in layout.tensors])
    return World(
        layout, rng.normal(size=layout.dim), rng.normal(size=(axes, layout.dim)) * moves, rng.normal(size=(count, axes))
    )
