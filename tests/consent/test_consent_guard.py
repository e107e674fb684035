"""Sketches of earlier releases, which registries still hold, estimate cosines."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from w2w_registry.consent.guard import BITS, _popcount, _projections, similarities

BLUR = np.pi * (0.25 / BITS) ** 0.5  # of an estimated angle, at 90°
SALT = b"\xa5" * 32
GOLDEN = "639489efcaac71cda7e0ff0c4a48c9f348c2fb4a043f542defb909e5938881f2"


def sketch(coordinates: np.ndarray, salt: bytes) -> bytes:
    """As earlier releases took it: the signs of the projections."""
    return np.packbits(_projections(salt, coordinates.size) @ coordinates.astype(np.float64) >= 0).tobytes()


def at_angle(a: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    other = rng.standard_normal(a.size)
    other -= other @ a / (a @ a) * a
    return cosine * a / np.linalg.norm(a) + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)


@pytest.mark.parametrize("size", [20, 300])
def test_similarity_estimates_the_cosine(size: int) -> None:
    rng = np.random.default_rng(3)
    for cosine in (-0.5, 0.0, 0.3, 0.7, 0.95, 1.0):
        a = rng.standard_normal(size)
        found = similarities(SALT, sketch(a, SALT), at_angle(a, cosine, rng) * 17.0)[0]
        assert abs(np.arccos(found) - np.arccos(cosine)) < 4 * BLUR
        assert cosine < 1 or found == 1.0


def test_sketches_are_fixed_for_ever_and_depend_on_the_salt() -> None:
    vector = np.arange(1, 9, dtype=np.float32)
    assert hashlib.sha256(sketch(vector, SALT)).hexdigest() == GOLDEN
    assert sketch(vector, SALT) != sketch(vector, bytes(32))
    assert sketch(vector.astype(np.float64), SALT) == sketch(vector, SALT)
    assert len(sketch(vector, SALT)) * 8 == BITS


def test_old_numpy_counts_bits_alike() -> None:
    assert _popcount(bytes(range(256))).tolist() == [i.bit_count() for i in range(256)]
