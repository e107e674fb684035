"""The watermark's error-correcting code."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_registry.marking.code import decode, encode, from_bits, to_bits


@given(st.integers(0, 2**48 - 1))
def test_numbers_survive_as_bits(number: int) -> None:
    assert from_bits(to_bits(number, 48)) == number


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**48 - 1), st.integers(224, 1200), st.data())
def test_any_eleven_wrong_signs_of_one_round_are_corrected(number: int, carriers: int, data: st.DataObject) -> None:
    """Free distance 24: up to eleven errors can be told from any other word, wherever they are."""
    bits = to_bits(number, 48)
    soft = encode(bits, carriers)
    wrong = data.draw(st.lists(st.integers(0, carriers - 1), min_size=11, max_size=11, unique=True))
    soft[wrong] *= -1
    assert (decode(soft, 48) == bits).all()


def test_soft_values_are_worth_more_than_signs() -> None:
    rng = np.random.default_rng(3)
    right = {"soft": 0, "hard": 0}
    for _ in range(40):
        bits = rng.integers(0, 2, 48).astype(np.uint8)
        heard = encode(bits, 300) + rng.normal(0, 1.35, 300)
        right["soft"] += bool((decode(heard, 48) == bits).all())
        right["hard"] += bool((decode(np.sign(heard), 48) == bits).all())
    assert right["soft"] > right["hard"]
