"""The gauge changes the factors, never ΔW; the space's own LoRAs are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.space.spaces import MODULES, make_layout, population
from w2w_registry.errors import SpaceMismatch
from w2w_registry.space import Layout, obstacles, to_gauge

Tensors = dict[tuple[str, str], np.ndarray]


def delta_w(tensors: Tensors, alphas: dict[str, float]) -> dict[str, np.ndarray]:
    out = {}
    for module, alpha in alphas.items():
        a, b = (np.asarray(tensors[(module, f)], np.float64) for f in "AB")
        out[module] = alpha / a.shape[0] * (b.reshape(len(b), -1) @ a.reshape(len(a), -1))
    return out


def of_layout(layout: Layout, theta: np.ndarray) -> dict[str, np.ndarray]:
    return delta_w(layout.unflatten(theta), dict.fromkeys(layout.modules, layout.alpha))


def reference(layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    thetas = population(layout, 50)
    return thetas, thetas.mean(0), thetas.std(0)


def stranger(rank: int, seed: int, width: int = 6) -> Tensors:
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for module in MODULES:
        tensors[(module, "A")] = rng.normal(size=(rank, width)).astype(np.float32)
        tensors[(module, "B")] = rng.normal(size=(width + 2, rank)).astype(np.float32)
    return tensors


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 3), st.floats(0.1, 100))
def test_delta_w_survives_when_the_rank_allows(seed: int, rank: int, spare: int, alpha: float) -> None:
    layout = make_layout(rank=rank + spare)
    _, mean, std = reference(layout)
    tensors = stranger(rank, seed)
    alphas = dict.fromkeys(MODULES, alpha)
    gauged = to_gauge(tensors, alphas, layout, mean, std)
    assert gauged.loss < 1e-6
    before, after = delta_w(tensors, alphas), of_layout(layout, gauged.theta)
    for module in MODULES:
        np.testing.assert_allclose(after[module], before[module], rtol=1e-4, atol=1e-5 * np.abs(before[module]).max())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_a_cut_rank_loses_what_eckart_young_says(seed: int, rank: int) -> None:
    layout = make_layout(rank=1)
    _, mean, std = reference(layout)
    tensors = stranger(rank, seed)
    alphas = dict.fromkeys(MODULES, 3.0)
    gauged = to_gauge(tensors, alphas, layout, mean, std)
    assert gauged.how == "gauge"
    before, after = delta_w(tensors, alphas), of_layout(layout, gauged.theta)
    lost = whole = 0.0
    for module in MODULES:
        s = np.linalg.svd(before[module], compute_uv=False)
        best = float(np.sqrt(np.sum(s[1:] ** 2) / np.sum(s**2)))
        assert gauged.module_loss[module] == pytest.approx(best, rel=1e-6)
        actual = np.linalg.norm(before[module] - after[module]) / np.linalg.norm(before[module])
        assert actual == pytest.approx(best, rel=1e-4)
        lost, whole = lost + float(np.sum(s[1:] ** 2)), whole + float(np.sum(s**2))
    assert gauged.loss == pytest.approx(np.sqrt(lost / whole), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_space_s_own_loras_keep_their_numbers(rank: int) -> None:
    layout = make_layout(rank=rank)
    thetas, mean, std = reference(layout)
    alphas = dict.fromkeys(MODULES, layout.alpha)
    for theta in thetas:
        gauged = to_gauge(layout.unflatten(theta), alphas, layout, mean, std)
        assert (gauged.how, gauged.loss) == ("as-is", 0.0)
        assert np.array_equal(gauged.theta, theta)


def test_another_alpha_only_rescales_b() -> None:
    layout = make_layout(alpha=4.0)
    thetas, mean, std = reference(layout)
    tensors = dict(layout.unflatten(thetas[0]))
    for module in MODULES:
        tensors[(module, "B")] = tensors[(module, "B")] * 4
    gauged = to_gauge(tensors, dict.fromkeys(MODULES, 1.0), layout, mean, std)
    assert gauged.how == "rescaled"
    np.testing.assert_allclose(gauged.theta, thetas[0], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2]))
def test_another_gauge_comes_back_near_the_original(seed: int, rank: int) -> None:
    """A member of the space written by another tool lands nearer its own θ than the members are to one another."""
    layout = make_layout(rank=rank)
    thetas, mean, std = reference(layout)
    rng = np.random.default_rng(seed)
    turned = dict(layout.unflatten(thetas[0].astype(np.float64)))
    for module in MODULES:
        turn = np.linalg.qr(rng.normal(size=(rank, rank)))[0] * rng.choice([-1, 1]) * rng.uniform(3, 30)
        turned[(module, "A")] = np.linalg.inv(turn) @ turned[(module, "A")]
        turned[(module, "B")] = turned[(module, "B")] @ turn
    gauged = to_gauge(turned, dict.fromkeys(MODULES, layout.alpha), layout, mean, std)
    assert gauged.how == "gauge"
    before = of_layout(layout, thetas[0])
    for module, delta in of_layout(layout, gauged.theta).items():
        np.testing.assert_allclose(delta, before[module], rtol=1e-3, atol=1e-4)
    if rank == 1:  # of more columns only their span is known again
        own = np.linalg.norm((gauged.theta - thetas[0]) / std)
        others = np.linalg.norm((thetas[1:] - thetas[0]) / std, axis=1)
        assert own < np.median(others)


def test_convolutions_and_empty_updates() -> None:
    from w2w_registry.space import layout_of

    shapes = {("conv_in", "A"): (2, 3, 3, 3), ("conv_in", "B"): (5, 2, 1, 1)}
    layout = layout_of(shapes, 2.0)
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=layout.dim), np.ones(layout.dim)
    tensors = {("conv_in", "A"): rng.normal(size=(1, 3, 3, 3)), ("conv_in", "B"): rng.normal(size=(5, 1, 1, 1))}
    gauged = to_gauge(tensors, {"conv_in": 7.0}, layout, mean, std)
    np.testing.assert_allclose(
        of_layout(layout, gauged.theta)["conv_in"], delta_w(tensors, {"conv_in": 7.0})["conv_in"], rtol=1e-4, atol=1e-5
    )
    tensors[("conv_in", "B")] *= 0
    nothing = to_gauge(tensors, {"conv_in": 7.0}, layout, mean, std)
    assert nothing.loss == 0.0
    assert np.isfinite(nothing.theta).all()


def test_obstacles() -> None:
    layout = make_layout(rank=1)
    shapes = {k: v.shape for k, v in stranger(4, 0).items()}
    assert obstacles(shapes, layout) == ()
    missing = {k: v for k, v in shapes.items() if k[0] != MODULES[0]}
    assert "2 tensors missing" in obstacles(missing, layout)[0]
    extra = shapes | {("conv_in", "A"): (4, 3, 3, 3), ("conv_in", "B"): (8, 4, 1, 1)}
    assert "the space does not have" in obstacles(extra, layout)[0]
    wider = {k: v.shape for k, v in stranger(4, 0, width=7).items()}
    assert "is (1, 7), the space has (1, 6)" in obstacles(wider, layout)[0]
    with pytest.raises(SpaceMismatch) as caught:
        to_gauge(stranger(4, 0, width=7), dict.fromkeys(MODULES, 1.0), layout, np.zeros(84), np.ones(84))
    assert caught.value.fields["differences"] == obstacles(wider, layout)
