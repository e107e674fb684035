from __future__ import annotations

import numpy as np
import pytest

from w2w_registry.errors import UsageError
from w2w_registry.space import intervals


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        found = intervals.mean(np.random.default_rng(seed).normal(3.0, 1.0, 60))
        hits += found.low <= 3.0 <= found.high
    assert 178 <= hits <= 199


def test_a_ratio_of_paired_values_is_tighter_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(1.0, 9.0, 50)
    found = intervals.ratio(2.0 * base, base)
    assert found.value == pytest.approx(2.0)
    assert found.high - found.low < 1e-9
    assert intervals.mean(base).high - intervals.mean(base).low > 0.5
    assert "n=50" in str(found)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert intervals.mean(values) == intervals.mean(values)
    assert intervals.mean(values) != intervals.mean(values, seed=1)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_nothing_has_no_interval(values: list[float]) -> None:
    with pytest.raises(UsageError):
        intervals.mean(np.array(values))


def test_a_share_of_all_is_not_certain() -> None:
    found = intervals.share(np.ones(16, bool))
    assert (found.value, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(0.806, abs=1e-3)  # 16 / (16 + z²)
    assert str(intervals.share([False] * 50)).startswith("0.000 [0.000, 0.071]")
    half = intervals.share([True, False] * 50)
    assert half.low == pytest.approx(1 - half.high)
    assert intervals.share([]).n == 0
