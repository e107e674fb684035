"""The guard: sketches estimate cosines, thresholds keep their rate, verdicts follow them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from w2w_registry.consent.guard import (
    BITS,
    Reference,
    Thresholds,
    Verdict,
    _popcount,
    meet,
    similarity,
    sketch,
    thresholds,
)

SALT = "a5" * 32
GOLDEN = "89fd3fbeea1b872670d0f630a6fb9d4ca9fabc9cb248f76cd99422c4b4a97ccd"


def at_angle(a: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    other = rng.standard_normal(a.size)
    other -= other @ a / (a @ a) * a
    return cosine * a / np.linalg.norm(a) + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)


@pytest.mark.parametrize("size", [20, 300])
def test_similarity_estimates_the_cosine(size: int) -> None:
    rng = np.random.default_rng(3)
    for cosine in (-0.5, 0.0, 0.3, 0.7, 0.95, 1.0):
        a = rng.standard_normal(size)
        reference = Reference("s1", "space", SALT, sketch(a, SALT))
        found = similarity(reference, at_angle(a, cosine, rng) * 17.0)
        # four standard deviations of the sketch's angle
        assert abs(np.arccos(found) - np.arccos(cosine)) < 4 * np.pi * np.sqrt(0.25 / BITS)
        assert cosine < 1 or found == 1.0


def test_sketches_are_fixed_for_ever_and_depend_on_the_salt() -> None:
    vector = np.arange(1, 9, dtype=np.float32)
    assert hashlib.sha256(sketch(vector, SALT).encode()).hexdigest() == GOLDEN
    assert sketch(vector, SALT) != sketch(vector, "00" * 32)
    assert sketch(vector.astype(np.float64), SALT) == sketch(vector, SALT)
    assert len(sketch(vector, SALT)) * 4 == BITS


def test_old_numpy_counts_bits_alike() -> None:
    stream = bytes(range(256))
    assert _popcount(stream).tolist() == [bin(i).count("1") for i in range(256)]


def test_thresholds_keep_the_asked_rate() -> None:
    pairs = np.random.default_rng(0).normal(0.2, 0.1, 20_000)
    limits = thresholds(pairs.tolist(), refuse_rate=0.001, flag_rate=0.01)
    assert (pairs >= limits.refuse).mean() <= 0.001
    assert 0.005 < (pairs >= limits.flag).mean() <= 0.01
    assert limits.flag < limits.refuse


def test_few_pairs_do_not_make_a_lax_guard_flag_everything() -> None:
    limits = thresholds([-0.3, -0.2])
    assert 0.05 < limits.flag <= limits.refuse < 0.3
    with pytest.raises(ValueError, match="no pairs"):
        thresholds([])


def test_verdicts() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 100))
    references = [Reference("s1", "space", SALT, sketch(a, SALT)), Reference("s2", "space", SALT, sketch(b, SALT))]
    limits = Thresholds(flag=0.5, refuse=0.8)
    near = meet(references, at_angle(b, 0.97, rng), limits)
    assert near is not None
    assert (near.verdict, near.subject) == (Verdict.REFUSE, "s2")
    middling = meet(references, at_angle(a, 0.66, rng), limits)
    assert middling is not None
    assert (middling.verdict, middling.subject) == (Verdict.FLAG, "s1")
    far = meet(references, rng.standard_normal(100), limits)
    assert far is not None
    assert far.verdict is Verdict.PASS
    assert meet([], a, limits) is None
