from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from w2w_registry.space import ica as u

Array = NDArray[np.float64]
TRAITS = 8


def people(n: int = 1000, k: int = 60, seed: int = 0) -> tuple[Array, Array]:
    """Identities of eight independent traits, half of them yes/no, seen through a rotation in the leading components;
    component 20 is the product of the first two traits, what follows 30 is noise.  (coordinates, traits)."""
    rng = np.random.default_rng(seed)
    traits = rng.uniform(-1.7, 1.7, (n, TRAITS))
    traits[:, ::2] = np.where(rng.random((n, TRAITS // 2)) < 0.5, 1.0, -1.0)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(16, 16)))[0]
    points = np.zeros((n, k))
    points[:, :16] = traits @ turn[:TRAITS] * 4.0 + 0.3 * rng.normal(size=(n, 16))
    points[:, 20] = 2.0 * traits[:, 0] * traits[:, 2]
    points[:, 30:] = 0.5 * rng.normal(size=(n, k - 30))
    return points - points.mean(0), traits


def test_yes_no_traits_stay_yes_or_no() -> None:
    points, traits = people()
    drawn = u.fit_unmixed(points).draw(2000, np.random.default_rng(1))
    reader = np.linalg.lstsq(points[:, :16], traits, rcond=None)[0]
    read = drawn[:, :16] @ reader
    decided = np.abs(read[:, ::2]) > 0.5
    assert decided.mean() > 0.97
    # As a Gaussian of the same covariance would not have it.
    gaussian = np.random.default_rng(2).multivariate_normal(np.zeros(16), np.cov(points[:, :16].T), 2000)
    assert (np.abs((gaussian @ reader)[:, ::2]) > 0.5).mean() < 0.8


def test_what_two_traits_do_together_goes_with_both() -> None:
    points, traits = people()
    drawn = u.fit_unmixed(points).draw(2000, np.random.default_rng(1))
    reader = np.linalg.lstsq(points[:, :16], traits, rcond=None)[0]
    read = drawn[:, :16] @ reader
    assert np.corrcoef(read[:, 0] * read[:, 2], drawn[:, 20])[0, 1] > 0.9


def test_training_noise_is_left_out_of_samples() -> None:
    points, _ = people()
    drawn = u.fit_unmixed(points).draw(500, np.random.default_rng(1))
    assert drawn[:, 30:].std() < 0.15 * points[:, 30:].std()


@pytest.mark.parametrize("n", [40, 200, 1000])
def test_samples_lie_a_little_further_out_than_identities(n: int) -> None:
    points, _ = people(n)
    found = u.fit_unmixed(points)
    drawn = found.draw(4000, np.random.default_rng(3))
    ratio = np.sqrt((drawn**2).sum(1).mean() / (points**2).sum(1).mean())
    assert ratio == pytest.approx(u.EMPHASIS if found.reach < u.MAX_REACH else ratio, rel=0.12)
    np.testing.assert_allclose(drawn.mean(0) / points.std(0).max(), 0.0, atol=0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 70), st.integers(1, 30), st.integers(0, 10))
def test_any_few_identities_give_finite_samples_of_bounded_reach(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, k)) * np.linspace(2, 0.1, k)
    points -= points.mean(0)
    found = u.fit_unmixed(points)
    assert 1.0 <= found.reach <= u.MAX_REACH
    assert np.isfinite(found.draw(7, rng)).all()


def test_identical_identities_give_themselves() -> None:
    drawn = u.fit_unmixed(np.zeros((30, 5))).draw(4, np.random.default_rng(0))
    np.testing.assert_allclose(drawn, 0.0, atol=1e-6)
