"""Canonical gauge: coordinates are a function of ΔW, whatever the factors; a foreign start is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.space.spaces import MODULES, make_layout
from tests.space.test_gauge import delta_w, of_layout
from w2w_registry.errors import ForeignStart
from w2w_registry.space import Layout, WeightSpace, canonical_rows, common_start, fit_space, to_gauge
from w2w_registry.space.start import SHARED_START, shares_start, start_tensors

WIDTH = 24


def trained(layout: Layout, n: int, seed: int = 0) -> np.ndarray:
    """θ (n, D) of LoRAs from one start, which A leaves by little."""
    rng = np.random.default_rng(seed)
    moves = np.concatenate([np.full(t.size, 0.1 if t.factor == "A" else 1.0) for t in layout.tensors])
    start = np.random.default_rng(99).normal(size=layout.dim)
    return (start + rng.normal(size=(n, layout.dim)) * moves).astype(np.float32)


def fitted(layout: Layout, n: int = 40) -> tuple[WeightSpace, np.ndarray]:
    thetas = trained(layout, n)
    start = common_start(thetas, layout).values
    return fit_space(canonical_rows(thetas, layout, start), layout, base_model="base", start=start), thetas


def regauged(tensors: dict, seed: int) -> dict:
    """The same ΔW: scale 0.01 to 100, sign, and columns turned and sheared."""
    rng = np.random.default_rng(seed)
    out = {}
    for module in MODULES:
        a, b = (np.asarray(tensors[(module, f)], np.float64) for f in "AB")
        rank = len(a)
        turn = np.linalg.qr(rng.normal(size=(rank, rank)))[0] * rng.uniform(0.5, 2, rank)
        turn *= 10 ** rng.uniform(-2, 2) * rng.choice([-1, 1])
        out[(module, "A")] = (np.linalg.inv(turn) @ a).astype(np.float32)
        out[(module, "B")] = (b @ turn).astype(np.float32)
    return out


def refactored(tensors: dict, spare: int = 0) -> dict:
    """What an SVD tool writes: singular vectors, the values shared out, zero columns to spare."""
    out = {}
    for module in MODULES:
        a, b = (np.asarray(tensors[(module, f)], np.float64) for f in "AB")
        u, s, vt = np.linalg.svd(b @ a)
        rank = len(a) + spare
        out[(module, "A")] = (np.sqrt(s[:rank, None]) * vt[:rank]).astype(np.float32)
        out[(module, "B")] = (u[:, :rank] * np.sqrt(s[:rank])).astype(np.float32)
    return out


def coordinates(space: WeightSpace, tensors: dict, alpha: float | None = None) -> np.ndarray:
    layout = space.layout
    alphas = dict.fromkeys(MODULES, layout.alpha if alpha is None else alpha)
    return space.project(to_gauge(tensors, alphas, layout, space.mean, space.std, space.start).theta)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.integers(0, 39))
def test_one_model_has_one_place_under_any_gauge(seed: int, rank: int, index: int) -> None:
    space, thetas = _spaces(rank)
    tensors = space.layout.unflatten(thetas[index])
    expected = coordinates(space, tensors)
    assert relative(coordinates(space, regauged(tensors, seed)), expected) < 1e-5
    assert relative(coordinates(space, refactored(tensors)), expected) < 1e-5
    # A higher rank with nothing in it, and the alpha that then belongs to the same ΔW.
    padded = refactored(tensors, spare=2)
    assert relative(coordinates(space, padded, space.layout.alpha * (rank + 2) / rank), expected) < 1e-5


_made: dict[int, tuple[WeightSpace, np.ndarray]] = {}


def _spaces(rank: int) -> tuple[WeightSpace, np.ndarray]:
    if rank not in _made:
        _made[rank] = fitted(make_layout(rank=rank, width=WIDTH))
    return _made[rank]


@pytest.mark.parametrize("rank", [1, 2])
def test_the_gauge_keeps_the_model_and_fixes_the_start(rank: int) -> None:
    space, thetas = _spaces(rank)
    layout = space.layout
    gauged = to_gauge(
        layout.unflatten(thetas[0]), dict.fromkeys(MODULES, layout.alpha), layout, space.mean, space.std, space.start
    )
    assert gauged.how == "canonical"
    assert np.array_equal(gauged.own, thetas[0])
    np.testing.assert_allclose(gauged.theta, space.in_gauge(thetas[:1])[0], rtol=1e-5, atol=1e-6)
    before, after = of_layout(layout, thetas[0]), of_layout(layout, gauged.theta)
    references = start_tensors(space.start, layout)
    for module in MODULES:
        np.testing.assert_allclose(after[module], before[module], rtol=1e-4, atol=1e-5)
        a = layout.unflatten(gauged.theta)[(module, "A")].astype(float)
        np.testing.assert_allclose(
            a @ references[module].T, references[module] @ references[module].T, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("rank", [1, 2])
def test_points_of_the_space_are_canonical_already(rank: int) -> None:
    space, _ = _spaces(rank)
    made = space.reconstruct(np.random.default_rng(0).normal(size=space.k) * space.component_std)
    assert relative(coordinates(space, space.layout.unflatten(made)), space.project(made)) < 1e-5


def test_a_lower_rank_finds_its_place_in_a_higher_space() -> None:
    """Rank 1 in a space of rank 2: what the second column leaves open is filled in one way only."""
    space, _ = _spaces(2)
    rng = np.random.default_rng(3)
    low = {}
    for module, reference in start_tensors(space.start, space.layout).items():
        low[(module, "A")] = (reference[:1] + 0.1 * rng.normal(size=(1, WIDTH))).astype(np.float32)
        low[(module, "B")] = rng.normal(size=(WIDTH + 2, 1)).astype(np.float32)
    expected = coordinates(space, low)
    assert relative(coordinates(space, regauged(low, 1)), expected) < 1e-5
    assert relative(coordinates(space, refactored(low, spare=1), 2 * space.layout.alpha), expected) < 1e-4


@pytest.mark.parametrize("rank", [1, 2])
def test_a_foreign_start_is_said_not_projected(rank: int) -> None:
    space, _ = _spaces(rank)
    rng = np.random.default_rng(0)
    foreign = {
        key: rng.normal(size=array.shape).astype(np.float32)
        for key, array in space.layout.unflatten(space.mean).items()
    }
    with pytest.raises(ForeignStart) as caught:
        coordinates(space, foreign)
    assert caught.value.agreement < 0.1


def test_a_start_is_told_from_many() -> None:
    layout = make_layout(rank=1, width=96)
    one = common_start(trained(layout, 30), layout)
    assert one.agreement > 0.8
    many = common_start(np.random.default_rng(0).normal(size=(30, layout.dim)), layout)
    assert many.agreement < SHARED_START
    mixed = np.concatenate([trained(layout, 25), np.random.default_rng(0).normal(size=(5, layout.dim))])
    start = common_start(mixed, layout)
    assert start.agreement > SHARED_START
    assert shares_start(mixed, layout, start.values).tolist() == [True] * 25 + [False] * 5


def test_a_fit_set_in_mixed_gauges_gives_the_same_coordinates() -> None:
    layout = make_layout(rank=1, width=WIDTH)
    space, thetas = fitted(layout)
    turned = np.stack([layout.flatten(regauged(layout.unflatten(t), i)) for i, t in enumerate(thetas)])
    start = common_start(turned, layout)
    again = fit_space(canonical_rows(turned, layout, start.values), layout, base_model="base", start=start.values)
    for theta in thetas[:5]:
        a, b = (coordinates(s, layout.unflatten(theta)) for s in (space, again))
        assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b), rel=1e-3)


def test_a_module_that_does_nothing_reads_where_the_start_does() -> None:
    space, thetas = _spaces(1)
    idle = dict(space.layout.unflatten(thetas[0]))
    module = MODULES[0]
    idle[(module, "B")] = np.zeros_like(idle[(module, "B")])
    elsewhere = {**idle, (module, "A"): np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)}
    assert relative(coordinates(space, elsewhere), coordinates(space, idle)) < 1e-6
    assert delta_w(idle, {module: 1.0})[module].max() == 0
