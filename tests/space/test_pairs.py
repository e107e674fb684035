"""Near pairs: exactly those that all products give, however the vectors lie and however they are looked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_registry.space.pairs import near_pairs


def vectors(seed: int, count: int, width: int, decay: float, copies: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, width)) * np.arange(1, width + 1) ** -decay
    if copies:
        rows[-copies:] = rows[:copies] + 0.1 * np.linalg.norm(rows[0]) / np.sqrt(width) * rng.standard_normal(
            (copies, width)
        )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 90),
    width=st.sampled_from([3, 16, 64]),
    decay=st.sampled_from([0.0, 0.5]),
    threshold=st.sampled_from([-0.2, 0.1, 0.5, 0.9]),
    components=st.sampled_from([None, 8, 40]),
    tile=st.sampled_from([7, 32, 2048]),
)
def test_the_pairs_that_all_products_give(
    seed: int, count: int, width: int, decay: float, threshold: float, components: int | None, tile: int
) -> None:
    units = vectors(seed, count, width, decay, min(5, count // 2))
    all_scores = units.astype(np.float64) @ units.astype(np.float64).T
    one, other = np.nonzero(np.triu(all_scores >= threshold, 1))
    sure = np.abs(all_scores[one, other] - threshold) > 1e-12
    found = near_pairs(units, threshold, components=components, tile=tile)
    assert {*zip(one[sure].tolist(), other[sure].tolist(), strict=True)} <= {
        *zip(found.one.tolist(), found.other.tolist(), strict=True)
    }
    assert len(found.one) - len(one) <= np.count_nonzero(np.abs(all_scores - threshold) <= 1e-12)
    assert np.allclose(found.score, all_scores[found.one, found.other], atol=1e-12)
    assert (np.diff(found.one) >= 0).all()


def test_copies_among_many_need_few_components(monkeypatch: pytest.MonkeyPatch) -> None:
    from w2w_registry.space import pairs

    units = vectors(1, 1500, 256, 0.3, 20)
    order = np.argsort(-(units**2).sum(axis=0))
    assert pairs._chosen(units, order, 0.9) <= 80
    found = near_pairs(units, 0.9)
    assert [*zip(found.one.tolist(), found.other.tolist(), strict=True)] == [(i, 1480 + i) for i in range(20)]


def test_nobody_and_one_have_no_pairs() -> None:
    assert len(near_pairs(np.zeros((0, 16), np.float32), 0.5).one) == 0
    assert len(near_pairs(np.ones((1, 16), np.float32) / 4, 0.5).one) == 0
