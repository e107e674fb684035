"""Rows like coordinates: Gaussian, component i with standard deviation i^-decay, unit norm, made in batches by seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from w2w_registry.index.protocol import Batch, Vectors

DEFAULT_DECAY = 0.27  # half-whitened coordinates, the default metric's (measured on a fitted space)
PAPER_DECAY = 0.53  # plain coordinates of the same space, as weights2weights compares them
BATCH = 10_000


def unit(vectors: Vectors) -> Vectors:
    """Rows divided by their norms, float32."""
    rows: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return rows


def spread(dim: int, decay: float) -> Vectors:
    """Each component's standard deviation, float32 (dim,)."""
    deviations: Vectors = np.arange(1, dim + 1, dtype=np.float32) ** np.float32(-decay)
    return deviations


def batches(rows: int, dim: int, decay: float, *, seed: int = 0) -> Iterator[Batch]:
    """The stored rows, made anew from the same seed each time, so that memory holds one batch."""
    deviations = spread(dim, decay)
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        rng = np.random.default_rng((seed, start))
        yield np.arange(start, start + count), unit(rng.standard_normal((count, dim), np.float32) * deviations)


def near(rows: Vectors, decay: float, count: int, *, cosine: float = 0.86, seed: int = 1) -> Vectors:
    """Queries (count, dim) whose inner product with a random stored row is about ``cosine``, as a retrained LoRA's."""
    rng = np.random.default_rng(seed)
    dim = rows.shape[1]
    away = unit(rng.standard_normal((count, dim), np.float32) * spread(dim, decay))
    picked = rows[rng.choice(len(rows), count, replace=len(rows) < count)]
    return unit(np.float32(cosine) * picked + np.float32(np.sqrt(1 - cosine**2)) * away)


def strangers(dim: int, decay: float, count: int, *, seed: int = 2) -> Vectors:
    """Unit vectors (count, dim) of the same spectrum, near nobody."""
    return unit(np.random.default_rng(seed).standard_normal((count, dim), np.float32) * spread(dim, decay))
