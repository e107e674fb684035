"""The guard: sketches estimate cosines, thresholds keep their rate, verdicts follow them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from w2w_registry.consent.guard import BITS, BLUR, Reference, Verdict, _popcount, meet, similarities, sketch, threshold

SALT = b"\xa5" * 32
GOLDEN = "639489efcaac71cda7e0ff0c4a48c9f348c2fb4a043f542defb909e5938881f2"


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


def test_the_threshold_keeps_the_asked_rate() -> None:
    strangers = np.random.default_rng(0).normal(0.3, 0.05, 20_000)
    limit = threshold(strangers, false_match_rate=0.001)
    assert 0.0005 < (strangers >= limit).mean() <= 0.001


def test_few_strangers_put_the_threshold_beyond_them_and_never_near_orthogonal() -> None:
    assert threshold(np.array([0.5, 0.6])) > 0.6
    assert threshold(np.array([0.999999])) <= 1.0
    assert threshold(np.array([-0.3, -0.2])) == pytest.approx(np.sin(3 * BLUR))
    assert 0.5 < threshold(np.zeros(0)) < 0.9


def test_verdicts() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 100))
    references = [Reference("s1", SALT, sketch(a, SALT), 0.8), Reference("s2", SALT, sketch(b, SALT), 0.8)]
    near = meet(references, at_angle(b, 0.97, rng))
    assert near is not None
    assert (near.verdict, near.subject, near.threshold) == (Verdict.REFUSE, "s2", 0.8)
    just_under = meet([Reference("s1", SALT, sketch(a, SALT), near.similarity + 0.01)], at_angle(a, 0.97, rng))
    assert just_under is not None
    assert just_under.verdict in {Verdict.FLAG, Verdict.REFUSE}
    far = meet(references, rng.standard_normal(100))
    assert far is not None
    assert far.verdict is Verdict.PASS
    assert meet([], a) is None


def test_a_refusal_outweighs_a_nearer_flag() -> None:
    a = np.random.default_rng(2).standard_normal(100)
    high = Reference("strict", SALT, sketch(a, SALT), 1.0001)
    low = Reference("lax", SALT, sketch(at_angle(a, 0.9, np.random.default_rng(3)), SALT), 0.5)
    found = meet([high, low], a)
    assert found is not None
    assert (found.verdict, found.subject) == (Verdict.REFUSE, "lax")
