"""Layouts and LoRA populations for the tests of this folder."""

from __future__ import annotations

import numpy as np

from w2w_registry.space import Layout, layout_of

MODULES = tuple(
    f"{block}.attentions.0.transformer_blocks.0.attn1.{projection}"
    for block in ("down_blocks.0", "mid_block", "up_blocks.0")
    for projection in ("to_q", "to_v")
)


def make_layout(rank: int = 1, width: int = 6, alpha: float = 4.0) -> Layout:
    shapes = {}
    for module in MODULES:
        shapes[(module, "A")] = (rank, width)
        shapes[(module, "B")] = (width + 2, rank)
    return layout_of(shapes, alpha)


def population(layout: Layout, n: int, factors: int = 5, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """θ (n, D) with a few strong directions of variation about a shared start, plus noise."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=layout.dim)
    mixing = rng.normal(size=(factors, layout.dim)) * 0.2
    strength = np.linspace(2.0, 0.5, factors)
    thetas = start + (rng.normal(size=(n, factors)) * strength) @ mixing
    return (thetas + noise * rng.normal(size=thetas.shape)).astype(np.float32)
