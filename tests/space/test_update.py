"""Updating a space without its old LoRAs, and mapping its coordinates: against a fit of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.space.spaces import make_layout, population
from w2w_registry.errors import UsageError
from w2w_registry.space import WeightSpace, fit_space
from w2w_registry.space.mapping import mapping, moved
from w2w_registry.space.start import canonical_rows, common_start
from w2w_registry.space.update import updated


def thetas_of(count: int, seed: int = 0) -> np.ndarray:
    return population(make_layout(), count, seed=seed)


def whole(thetas: np.ndarray, components: int | None = None) -> WeightSpace:
    return fit_space(thetas, make_layout(), base_model="acme/base", components=components)


def scatter(thetas: np.ndarray, space: WeightSpace) -> np.ndarray:
    z = (thetas.astype(np.float64) - space.mean) / space.std
    return np.linalg.svd(z, full_matrices=False)[1] ** 2 / (len(z) - 1)


def test_a_space_that_lost_nothing_is_updated_exactly() -> None:
    """With every component kept the update is the PCA of all LoRAs (in the old σ)."""
    thetas = thetas_of(60)
    old = whole(thetas[:40])
    found = updated(old, thetas[40:], [str(i) for i in range(20)], components=50, false_match_rate=1e-4)
    new = found.space
    assert (new.fit_size, new.k) == (60, 50)
    np.testing.assert_allclose(new.mean, thetas.astype(np.float64).mean(0), atol=1e-5)
    np.testing.assert_allclose(new.component_std[:50] ** 2, scatter(thetas, new)[:50], rtol=1e-4)
    np.testing.assert_allclose(new.components.T @ new.components, np.eye(50), atol=1e-5)
    assert new.metric is not None
    assert found.unknown == pytest.approx(0, abs=1e-4)
    # Old coordinates arrive where the LoRAs themselves would.
    between = mapping(old, new)
    assert between is not None
    points, loss = between.points(old.project(thetas[:40]))
    np.testing.assert_allclose(points, new.project(thetas[:40]), atol=2e-3 * new.component_std[0])
    np.testing.assert_allclose(loss, new.residual(thetas[:40]), atol=1e-3)


def test_what_is_lost_is_said() -> None:
    thetas = thetas_of(80)
    old = whole(thetas[:60], components=10)
    found = updated(old, thetas[60:], [str(i) for i in range(20)], false_match_rate=1e-4)
    assert found.space.k == 10
    assert found.unknown == pytest.approx(1 - float(old.explained_variance_ratio.sum()), abs=1e-5)
    between = mapping(old, found.space)
    assert between is not None
    before = old.project(thetas[:60])
    points, loss = between.points(before)
    # In energy about the old centre, the share said is the share measured.
    back = (old.components.T @ (found.space.components @ (found.space.components.T @ (old.components @ before.T)))).T
    measured = 1 - np.sum(back * before) / np.sum(before**2)
    assert found.lost == pytest.approx(measured, abs=0.02)
    assert 0 < loss.mean() < 1
    assert points.shape == (60, 10)


def test_spaces_of_different_starts_are_moved_point_by_point() -> None:
    layout, thetas = make_layout(), thetas_of(60)
    spaces = []
    for part in (thetas[:40], thetas[20:]):
        start = common_start(part, layout).values
        spaces.append(
            fit_space(canonical_rows(part, layout, start), layout, base_model="acme/base", start=start, components=30)
        )
    old, new = spaces
    assert mapping(old, new) is None
    points = old.project(old.in_gauge(thetas[:5]))
    found, loss = moved(old, new, points)
    expected = new.project(new.in_gauge(old.reconstruct(points)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.all(loss < 1)


def test_spaces_of_other_loras_are_refused() -> None:
    other = fit_space(population(make_layout(rank=2), 30), make_layout(rank=2), base_model="acme/base")
    with pytest.raises(UsageError, match="different LoRAs"):
        mapping(whole(thetas_of(30)), other)
