"""A dictionary of vectors searched by sorting all of them: what every index has to agree with."""

from __future__ import annotations

import numpy as np

from w2w_registry.index.protocol import Ids, Vectors
from w2w_registry.index.vectors import score


class Oracle:
    def __init__(self) -> None:
        self.rows: dict[int, Vectors] = {}

    def add(self, ids: list[int], vectors: Vectors) -> None:
        for key, vector in zip(ids, vectors, strict=True):
            self.rows[key] = vector

    def remove(self, ids: list[int]) -> int:
        return sum(self.rows.pop(key, None) is not None for key in set(ids))

    def search(
        self, queries: Vectors, limit: int, allowed: list[int] | None = None, forbidden: list[int] | None = None
    ) -> tuple[Ids, Vectors]:
        keys = [k for k in self.rows if (allowed is None or k in allowed) and k not in (forbidden or ())]
        width = min(limit, len(keys))
        ids, scores = np.empty((len(queries), width), np.int64), np.empty((len(queries), width), np.float32)
        for i, query in enumerate(queries):
            ranked = sorted((-float(score(self.rows[k][None], query)[0]), k) for k in keys)[:width]
            ids[i], scores[i] = [k for _, k in ranked], [-s for s, _ in ranked]
        return ids, scores


def unit(rng: np.random.Generator, count: int, dim: int, decay: float = 0.0) -> Vectors:
    """Unit vectors whose components' spread falls as 1/i^decay."""
    raw = rng.standard_normal((count, dim)) * np.arange(1, dim + 1) ** -decay
    return (raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def lattice(picks: list[int], dim: int) -> Vectors:
    """Vectors from a small set in which ties, repeats, opposites and zero are common."""
    rng = np.random.default_rng(7)
    palette = np.concatenate([np.zeros((1, dim)), np.eye(dim), -np.eye(dim), unit(rng, 6, dim)]).astype(np.float32)
    return np.stack([palette[p % len(palette)] for p in picks])


def assert_same(found: tuple[Ids, Vectors], expected: tuple[Ids, Vectors]) -> None:
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[0].dtype == np.int64
    assert found[1].dtype == np.float32
