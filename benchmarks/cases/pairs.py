"""Near-duplicate pairs among many rows, against numpy's products of all pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.cases._vectors import DEFAULT_DECAY, PAPER_DECAY, batches, near
from benchmarks.frame import Row
from w2w_registry.index.protocol import Vectors
from w2w_registry.space.pairs import near_pairs

DIM = 1000
CASES = ((DEFAULT_DECAY, 0.9), (PAPER_DECAY, 0.9), (DEFAULT_DECAY, 0.36))


def rows(small: bool) -> Iterator[Row]:
    count = 10_000 if small else 100_000
    for decay, threshold in CASES:
        units = np.concatenate([block for _, block in batches(count - count // 100, DIM, decay)])
        units = np.concatenate([units, near(units, decay, count // 100, cosine=0.95)])
        start = time.process_time()
        found = near_pairs(units, threshold)
        ours = time.process_time() - start
        start = time.process_time()
        plain = all_products(units, threshold)
        peer = time.process_time() - start
        ours_set, plain_set = ({*zip(one.tolist(), other.tolist(), strict=True)} for one, other in (found[:2], plain))
        quality = {"pairs": len(plain_set), "missed": len(plain_set - ours_set), "more": len(ours_set - plain_set)}
        size = {"rows": count, "dim": DIM, "decay": decay, "threshold": threshold, "threads": 1}
        yield Row("near pairs, CPU", ours, peer, "numpy, half of all products", quality, size)


def all_products(units: Vectors, threshold: float, block: int = 2048) -> tuple[Vectors, Vectors]:
    """Each block of rows against itself and all after it."""
    ones, others = [], []
    for start in range(0, len(units), block):
        scores = units[start : start + block] @ units[start:].T
        one, other = np.nonzero(scores >= np.float32(threshold))
        later = one < other
        ones.append(one[later] + start)
        others.append(other[later] + start)
    return np.concatenate(ones), np.concatenate(others)
