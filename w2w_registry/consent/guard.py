"""References that earlier releases kept of protected subjects: read and compared still, made no more (``references``).

What was kept is a salted sketch, not coordinates: signs of random projections of the
(weighted) coordinates, the projections drawn from a secret salt (SimHash: Charikar, STOC 2002). Two vectors at
angle φ differ in a bit with probability φ/π, so the share of equal bits estimates their cosine. A sketch has
fewer bits than the space has numbers, and without its salt it says nothing; it serves this one comparison.
"""

from __future__ import annotations

import hashlib
from math import pi

import numpy as np
from numpy.typing import NDArray

BITS = 512
"""Bits of a sketch: the estimated angle's standard deviation is at most 180°·√(1/4/512) = 4°."""


def _projections(salt: bytes, size: int) -> NDArray[np.float64]:
    stream = hashlib.shake_256(b"w2w-registry sketch 1" + salt).digest(BITS * size)
    flips = np.bitwise_count(np.frombuffer(stream, np.uint8)) if hasattr(np, "bitwise_count") else _popcount(stream)
    return flips.astype(np.float64).reshape(BITS, size) - 4.0


def _popcount(stream: bytes) -> NDArray[np.uint8]:
    # numpy before 2.0 has no bitwise_count.
    table = np.array([bin(i).count("1") for i in range(256)], np.uint8)
    return table[np.frombuffer(stream, np.uint8)]


def similarities(salt: bytes, mine: bytes, coordinates: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimated cosines (n,) between a sketched point and weighted ``coordinates``, shape (n, k)."""
    points = np.atleast_2d(coordinates).astype(np.float64)
    bits = points @ _projections(salt, points.shape[1]).T >= 0
    differing = (bits != np.unpackbits(np.frombuffer(mine, np.uint8)).astype(bool)).sum(axis=1)
    return np.asarray(np.cos(pi * differing / BITS))
