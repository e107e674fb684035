"""Weight spaces: projection and back, residual, digest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.space.spaces import make_layout, population
from w2w_registry.space import Metric, WeightSpace, fit_space

LAYOUT = make_layout()
THETAS = population(LAYOUT, 60)
SPACE = fit_space(THETAS, LAYOUT, base_model="acme/base", base_revision="r1", components=12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_points_of_the_space_come_back(seed: int) -> None:
    c = np.random.default_rng(seed).normal(size=(3, SPACE.k)).astype(np.float32) * SPACE.component_std
    theta = SPACE.reconstruct(c)
    np.testing.assert_allclose(SPACE.project(theta), c, atol=1e-4)
    assert np.all(SPACE.residual(theta) < 1e-3)


def test_one_row_or_many_is_one_answer() -> None:
    many = SPACE.project(THETAS)
    assert many.dtype == np.float32
    for theta, c in zip(THETAS, many, strict=True):
        assert np.array_equal(SPACE.project(theta), c)
    np.testing.assert_array_equal(SPACE.reconstruct(many)[7], SPACE.reconstruct(many[7]))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, back = SPACE.project(THETAS), SPACE.reconstruct(SPACE.project(THETAS))
    monkeypatch.setattr("w2w_registry.space.basis._BLOCK", 5 * SPACE.k)
    np.testing.assert_allclose(SPACE.project(THETAS), whole, rtol=1e-6)
    np.testing.assert_allclose(SPACE.reconstruct(whole), back, rtol=1e-6)
    assert replace(SPACE).digest == SPACE.digest


def test_residual_is_the_length_of_what_is_left() -> None:
    rng = np.random.default_rng(5)
    theta = rng.normal(size=(4, SPACE.dim)).astype(np.float32)
    z = (theta.astype(np.float64) - SPACE.mean) / SPACE.std
    left = z - (z @ SPACE.components) @ SPACE.components.T
    expected = np.linalg.norm(left, axis=1) / np.linalg.norm(z, axis=1)
    np.testing.assert_allclose(SPACE.residual(theta), expected, rtol=1e-5)
    assert SPACE.residual(theta[0]) == pytest.approx(expected[0], rel=1e-5)
    assert SPACE.residual(theta[0], SPACE.project(theta[0])) == SPACE.residual(theta[0])
    assert SPACE.residual(SPACE.mean) == 0.0


def test_negative_and_zero_std_go_both_ways() -> None:
    std = SPACE.std.copy()
    std[::3] *= -1
    std[4] = 0
    space = replace(SPACE, std=std)
    c = SPACE.project(THETAS[0])
    theta = space.reconstruct(c)
    np.testing.assert_allclose(
        theta, (c @ SPACE.components.T) * std + SPACE.mean, rtol=1e-4, atol=1e-5
    )  # the release's own formula
    assert theta[4] == SPACE.mean[4]
    without = SPACE.components.copy()
    without[4] = 0
    np.testing.assert_allclose(space.project(theta), without.T @ (SPACE.components @ c), atol=1e-3)


def test_truncation_keeps_the_first_coordinates() -> None:
    small = SPACE.truncated(4)
    np.testing.assert_array_equal(small.project(THETAS), SPACE.project(THETAS)[:, :4])
    assert (small.k, small.digest == SPACE.digest) == (4, False)
    with pytest.raises(ValueError, match="components"):
        SPACE.truncated(13)


@pytest.mark.parametrize(
    "change",
    [
        {"base_model": "acme/other"},
        {"base_revision": None},
        {"fit_set_digest": "other"},
        {"fit_size": 61},
        {"software": {"numpy": "0"}},
        {"metric": Metric("cosine")},
        {"coordinate_mean": np.zeros(12, np.float32)},
        {"repeat_reliability": np.ones(12, np.float32)},
        *({name: getattr(SPACE, name) * np.float32(1.0001)} for name in ("mean", "std", "components", "component_std")),
        {"explained_variance_ratio": np.zeros(0, np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_is_over_everything(change: dict[str, object]) -> None:
    assert replace(SPACE, **change).digest != SPACE.digest


def test_the_digest_ignores_how_arrays_lie_in_memory(tmp_path: Path) -> None:
    wide = np.zeros((SPACE.dim, 20), np.float32)
    wide[:, :12] = SPACE.components
    np.save(tmp_path / "v.npy", wide)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")[:, :12]
    space = replace(SPACE, components=mapped)
    assert space.digest == SPACE.digest
    np.testing.assert_array_equal(space.project(THETAS), SPACE.project(THETAS))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="std has shape"):
        replace(SPACE, std=SPACE.std[1:])
    with pytest.raises(ValueError, match="the space needs"):
        SPACE.project(THETAS[:, 1:])
    assert isinstance(SPACE, WeightSpace)
