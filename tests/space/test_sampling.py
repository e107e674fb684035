from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space import sampling as s

Array = NDArray[np.float64]


def two_humps(n: int = 600, k: int = 24, seed: int = 0) -> Array:
    """Identities with a yes/no attribute along the first component and decaying Gaussians elsewhere."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, k)) * np.linspace(2.0, 0.2, k)
    points[:, 0] = np.where(rng.random(n) < 0.4, 5.0, -5.0) + rng.normal(size=n) * 0.5
    if k > 3:
        points[:, 2] += 0.8 * points[:, 3]
    return np.asarray(points - points.mean(0))


@pytest.mark.parametrize("shape", ["independent", "full"])
def test_samples_have_the_mean_and_spread_of_the_identities(shape: s.Shape) -> None:
    known = two_humps()
    drawn = s.fit_population(known, shape).draw(6000, np.random.default_rng(1))
    std = known.std(0)
    np.testing.assert_allclose(drawn.mean(0) / std, 0.0, atol=0.08)
    np.testing.assert_allclose(drawn.std(0) / std, 1.0, atol=0.08)


def test_unmixed_keeps_the_humps_that_a_gaussian_fills() -> None:
    known = two_humps()
    spin = np.linalg.qr(np.random.default_rng(9).normal(size=(6, 6)))[0]
    # The humps lie askew to every component, all of which have unit variance.
    known[:, :6] = known[:, :6] / known[:, :6].std(0) @ spin
    valley = {}
    for shape in ("independent", "unmixed"):
        drawn = s.fit_population(known, shape).draw(4000, np.random.default_rng(2))
        valley[shape] = float((np.abs((drawn[:, :6] @ spin.T)[:, 0]) < 0.3).mean())
    assert valley["unmixed"] < 0.5 * valley["independent"]


def test_full_covariance_keeps_correlations_that_are_there_and_shrinks_those_that_are_not() -> None:
    known = two_humps(n=5000)
    drawn = s.fit_population(known, "full").draw(8000, np.random.default_rng(3))
    truth = float(np.corrcoef(known[:, 2], known[:, 3])[0, 1])
    assert float(np.corrcoef(drawn[:, 2], drawn[:, 3])[0, 1]) == pytest.approx(truth, abs=0.15)
    noise = np.random.default_rng(4).normal(size=(40, 60))
    factor = s.fit_population(noise, "full").factor
    assert factor is not None
    correlation = np.corrcoef(noise.T)
    shrunk = (factor @ factor.T) / np.outer(noise.std(0, ddof=1), noise.std(0, ddof=1))
    off = ~np.eye(60, dtype=bool)
    assert np.abs(shrunk[off]).mean() < 0.3 * np.abs(correlation[off]).mean()


def test_same_seed_same_samples_other_seed_others() -> None:
    known = two_humps()
    population = s.fit_population(known)
    first = s.sample(population, 5, known, seed=1)
    np.testing.assert_array_equal(first.points, s.sample(population, 5, known, seed=1).points)
    assert not np.array_equal(first.points, s.sample(population, 5, known, seed=2).points)


def cosine_distance(a: Array, b: Array, weights: Array) -> Array:
    a, b = a * weights, b * weights
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    return np.asarray(1.0 - a @ b.T)


def test_distance_to_the_nearest_identity_is_true_and_kept() -> None:
    known = two_humps()
    weights = 1.0 / known.std(0)
    drawn = s.sample(s.fit_population(known), 20, known, seed=5, min_distance=0.3, metric_weights=weights)
    gaps = cosine_distance(drawn.points, known, weights)
    np.testing.assert_allclose(drawn.distance, gaps.min(1), atol=1e-9)
    np.testing.assert_array_equal(drawn.nearest, gaps.argmin(1))
    assert drawn.distance.min() >= 0.3
    among = cosine_distance(drawn.points, drawn.points, weights) + 2.0 * np.eye(20)
    assert among.min() >= 0.3 - 1e-9


def test_no_room_is_said() -> None:
    known = two_humps(n=200, k=3)
    with pytest.raises(UsageError) as caught:
        s.sample(s.fit_population(known), 3, known, seed=0, min_distance=1.9)
    assert "at least 1.9" in caught.value.fields["reason"]


def test_room_that_is_hard_to_find_is_found() -> None:
    population = s.fit_population(np.random.default_rng(0).normal(size=(40, 5)), "full")
    found = s.sample(population, 30, np.empty((0, 5)), seed=1, min_distance=0.4)
    unit = found.points / np.linalg.norm(found.points, axis=1, keepdims=True)
    assert np.triu(unit @ unit.T, 1).max() <= 0.6 + 1e-9
    # Most of what is drawn is too near to what was kept before.
    assert found.refused > 1600


def test_an_empty_registry_has_no_nearest() -> None:
    known = two_humps()
    drawn = s.sample(s.fit_population(known), 2, np.empty((0, known.shape[1])), seed=0, min_distance=0.1)
    assert (drawn.nearest == -1).all()


@pytest.mark.parametrize("count", [0, -1])
def test_how_many_must_make_sense(count: int) -> None:
    known = two_humps(n=20)
    with pytest.raises(UsageError):
        s.sample(s.fit_population(known), count, known, seed=0)


def test_one_identity_is_no_distribution() -> None:
    with pytest.raises(UsageError):
        s.fit_population(np.zeros((1, 4)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=5).filter(lambda w: sum(w) > 1e-3), st.integers(0, 99))
def test_a_mixture_lies_between_its_parts(weights: list[float], seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(len(weights), 6))
    mixed = s.mix(list(points), weights)
    assert (mixed >= points.min(0) - 1e-9).all()
    assert (mixed <= points.max(0) + 1e-9).all()
    np.testing.assert_allclose(mixed, s.mix(list(points), [3.0 * w for w in weights]), atol=1e-9)


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0], [1.0], [float("nan"), 1.0]])
def test_mixing_weights_must_make_sense(weights: list[float]) -> None:
    with pytest.raises(UsageError):
        s.mix([np.zeros(3), np.ones(3)], weights)


def test_people_lie_within_a_few_deviations_along_any_line() -> None:
    rng = np.random.default_rng(0)
    std = np.linspace(3.0, 0.1, 50)
    members, line = rng.normal(size=(2000, 50)) * std, rng.normal(size=50)
    found = np.array([s.distance_along(one, line, std) for one in members])
    assert (abs(found.mean()), found.std()) == (pytest.approx(0.0, abs=0.08), pytest.approx(1.0, abs=0.05))
    assert (np.abs(found) < s.FAR).all()
    unit = line / np.linalg.norm(line / std)  # one deviation long
    there = s.distance_along(members[0] + 5 * unit, line, std)
    assert there == pytest.approx(found[0] + 5)
    assert s.distance_along(members[0] + 5 * unit, -3 * line, std) == pytest.approx(-there)
    assert s.distance_along(members[0], np.zeros(50), std) == 0.0


def test_typicality_is_one_for_members() -> None:
    rng = np.random.default_rng(0)
    std = np.linspace(3.0, 0.1, 50)
    members = rng.normal(size=(500, 50)) * std
    values = s.typicality(members, std)
    assert values.mean() == pytest.approx(1.0, abs=0.05)
    assert float(s.typicality(members[0] * 3.0, std)) == pytest.approx(3.0 * values[0])
