"""The fit against numpy's own SVD, on every route, in memory and streamed, numpy and torch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.space.spaces import make_layout, population
from w2w_registry.errors import UsageError
from w2w_registry.space import WeightSpace, fit_space

ROUTES = ("gram", "covariance", "krylov")


def oracle(thetas: np.ndarray, space: WeightSpace) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors and variances of the data standardised with the space's own μ and σ."""
    z = (thetas.astype(np.float64) - space.mean) / space.std
    _, s, vt = np.linalg.svd(z, full_matrices=False)
    return vt.T, s**2 / (len(z) - 1)


def fit(thetas: object, layout: object = None, **more: object) -> WeightSpace:
    return fit_space(thetas, layout or make_layout(), base_model="acme/base", **more)  # type: ignore[arg-type]


class Blocks:
    """Row blocks of uneven size, counted so that a test can see the data was streamed."""

    def __init__(self, thetas: np.ndarray) -> None:
        self.thetas, self.reads = thetas, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.reads += 1
        start = 0
        for size in (7, 1, 0, 20, 10**9):
            yield self.thetas[start : start + size]
            start += size


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("n", [40, 200])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("scaling", ["module", "parameter"])
def test_equals_the_svd(route: str, n: int, streamed: bool, scaling: str) -> None:
    layout = make_layout()
    thetas = population(layout, n)
    space = fit(Blocks(thetas) if streamed else thetas, components=5, method=route, scaling=scaling)
    vectors, variance = oracle(thetas, space)
    np.testing.assert_allclose(space.component_std**2, variance[:5], rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(space.components * vectors[:, :5], axis=0)), 1, atol=1e-5)
    np.testing.assert_allclose(space.components.T @ space.components, np.eye(5), atol=1e-6)
    np.testing.assert_allclose(space.explained_variance_ratio, variance[:5] / variance.sum(), rtol=1e-4)
    np.testing.assert_allclose(space.mean, thetas.mean(0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(np.sum(variance), layout.dim, rtol=1e-5)
    if scaling == "parameter":
        np.testing.assert_allclose(space.std, thetas.std(0, ddof=1, dtype=np.float64), rtol=1e-5)


def test_all_components_say_everything() -> None:
    thetas = population(make_layout(), 30)
    space = fit(thetas)
    assert space.k == 29
    assert space.fit_size == 30
    np.testing.assert_allclose(space.reconstruct(space.project(thetas)), thetas, atol=1e-4)
    assert np.all(space.residual(thetas) < 1e-2)
    np.testing.assert_allclose(space.components.T @ space.components, np.eye(29), atol=1e-5)
    np.testing.assert_allclose(space.explained_variance_ratio.sum(), 1, rtol=1e-4)


def test_coordinates_have_the_stated_spread() -> None:
    thetas = population(make_layout(), 120)
    space = fit(thetas, components=5)
    coordinates = space.project(thetas)
    np.testing.assert_allclose(coordinates.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(coordinates.std(0, ddof=1), space.component_std, rtol=1e-4)
    assert np.all(np.diff(space.component_std) <= 0)


@pytest.mark.parametrize("route", ROUTES)
def test_a_refit_is_the_same_space(route: str) -> None:
    thetas = population(make_layout(), 50)
    assert fit(thetas, method=route, components=4).digest == fit(thetas.copy(), method=route, components=4).digest


def test_signs_do_not_depend_on_the_route() -> None:
    thetas = population(make_layout(), 60)
    spaces = [fit(thetas, method=route, components=5) for route in ROUTES]
    for space in spaces[1:]:
        np.testing.assert_allclose(space.components, spaces[0].components, atol=1e-4)


def test_fit_set_digest_ignores_order_only() -> None:
    thetas = population(make_layout(), 40)
    digest = fit(thetas).fit_set_digest
    assert fit(thetas[::-1]).fit_set_digest == digest
    assert fit(Blocks(thetas)).fit_set_digest == digest
    thetas[3, 3] += 1
    assert fit(thetas).fit_set_digest != digest
    assert fit(thetas, fit_set_digest="named").fit_set_digest == "named"


@pytest.mark.parametrize("route", ROUTES)
def test_torch_gives_the_same(route: str) -> None:
    torch = pytest.importorskip("torch")
    thetas = population(make_layout(), 60)
    ours, theirs = fit(thetas, method=route, components=5), fit(torch.from_numpy(thetas), method=route, components=5)
    np.testing.assert_allclose(theirs.components, ours.components, atol=1e-5)
    np.testing.assert_allclose(theirs.component_std, ours.component_std, rtol=1e-5)
    assert theirs.fit_set_digest == ours.fit_set_digest
    assert "torch" in theirs.software


def test_constant_parameters_get_a_floor() -> None:
    thetas = population(make_layout(), 40)
    thetas[:, :10] = 3.25
    space = fit(thetas, components=5, scaling="parameter")
    assert np.all(space.std > 0)
    np.testing.assert_allclose(space.std[:10], 0.01 * np.median(thetas.std(0, ddof=1)[10:]), rtol=1e-4)
    np.testing.assert_allclose(space.components[:10], 0, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-1e4, 1e4))
def test_std_is_stable_far_from_zero(seed: int, spread: float, centre: float) -> None:
    """E[x²] − E[x]² would go negative here, as it did in the public release."""
    layout = make_layout()
    thetas = (centre + spread * np.random.default_rng(seed).normal(size=(35, layout.dim))).astype(np.float32)
    space = fit(Blocks(thetas), scaling="parameter")
    expected = thetas.astype(np.float64).std(0, ddof=1)
    assert np.all(space.std > 0)
    np.testing.assert_allclose(space.std, np.maximum(expected, 0.01 * np.median(expected)), rtol=1e-4)


def standardised(thetas: np.ndarray, space: WeightSpace) -> np.ndarray:
    return (thetas.astype(np.float64) - space.mean) / space.std


def test_every_module_has_the_same_say() -> None:
    layout = make_layout(rank=2)
    thetas = population(layout, 60)
    for i, (_, part) in enumerate(layout.slices()):
        thetas[:, part] *= 10.0 ** (i % 5 - 2)
    space = fit(thetas, layout)
    z = standardised(thetas, space)
    by_module = dict.fromkeys(layout.modules, 0.0)
    for tensor, part in layout.slices():
        assert len(set(space.std[part])) == 1
        by_module[tensor.module] += float(z[:, part].var(0, ddof=1).sum())
    np.testing.assert_allclose(list(by_module.values()), layout.dim / len(layout.modules), rtol=1e-4)


def test_a_gauge_shared_by_all_changes_nothing() -> None:
    """A twice and B half as large is the same set of models, so their z must lie the same to one another."""
    layout = make_layout()
    thetas = population(layout, 30)
    other = thetas.copy()
    for i, (tensor, part) in enumerate(layout.slices()):
        other[:, part] *= 2.0 ** (i // 2) if tensor.factor == "A" else 0.5 ** (i // 2)
    first, second = (standardised(x, fit(x, layout)) for x in (thetas, other))
    np.testing.assert_allclose(second @ second.T, first @ first.T, rtol=1e-3, atol=1e-2)


def test_with_a_frozen_a_z_is_delta_w() -> None:
    """Cosines of z are then those of ΔW − mean ΔW with its modules brought to one size."""
    layout = make_layout()
    thetas = population(layout, 30)
    for tensor, part in layout.slices():
        if tensor.factor == "A":
            thetas[:, part] = thetas[0, part]
    z = standardised(thetas, fit(thetas, layout))
    parts = []
    for module in layout.modules:
        tensors = [layout.unflatten(theta) for theta in thetas.astype(np.float64)]
        delta = np.stack([(t[(module, "B")] @ t[(module, "A")]).ravel() for t in tensors])
        delta -= delta.mean(0)
        parts.append(delta / np.sqrt((delta**2).sum()))
    dense = np.hstack(parts)
    scale = np.sum(z**2) / np.sum(dense**2)
    np.testing.assert_allclose(z @ z.T, scale * dense @ dense.T, atol=1e-3 * scale)


def test_modules_that_do_nothing() -> None:
    layout = make_layout()
    thetas = population(layout, 30)
    for i, (_, part) in enumerate(layout.slices()):
        if i == 1 or i in (4, 5):  # one B always zero; one module all zero
            thetas[:, part] = 0
    space = fit(thetas, layout)
    assert np.isfinite(space.std).all()
    assert np.all(space.std > 0)
    np.testing.assert_allclose(space.reconstruct(space.project(thetas)), thetas, atol=1e-3)


def test_what_cannot_be_fitted() -> None:
    layout = make_layout()
    thetas = population(layout, 10)
    for bad, words in [
        (thetas[:1], "at least two"),
        (np.repeat(thetas[:1], 5, axis=0), "all the same"),
        (thetas[:, 1:], "layout needs"),
        ([], "layout needs"),
        (np.where(np.arange(layout.dim) == 3, np.nan, thetas), "NaN"),
    ]:
        with pytest.raises(UsageError, match=words):
            fit(bad)
    with pytest.raises(UsageError, match="support 1 to 9"):
        fit(thetas, components=10)
    with pytest.raises(UsageError, match="only 3 independent"):
        fit(np.concatenate([thetas[:4], thetas[:4]]), components=6)


class Generated:
    """60 blocks of 200 LoRAs, made anew at every read and held nowhere: 14 MB in all."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __iter__(self) -> Iterator[np.ndarray]:
        mixing = np.random.default_rng(99).normal(size=(4, self.dim)).astype(np.float32)
        for block in range(60):
            rng = np.random.default_rng(block)
            yield rng.normal(size=(200, 4)).astype(np.float32) @ mixing + rng.normal(size=(200, self.dim)).astype("f4")


@pytest.mark.parametrize("route", ["covariance", "krylov"])
def test_a_large_set_is_never_held(route: str) -> None:
    layout = make_layout(width=24)
    data = Generated(layout.dim)
    whole = 12_000 * layout.dim * 4
    tracemalloc.start()
    try:
        space = fit(data, layout, components=4, method=route)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert space.fit_size == 12_000
    assert peak < whole / 2
    vectors, variance = oracle(np.concatenate(list(data)), space)
    np.testing.assert_allclose(space.component_std**2, variance[:4], rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(space.components * vectors[:, :4], axis=0)), 1, atol=1e-5)


def test_copies_do_not_add_components() -> None:
    thetas = population(make_layout(), 6)
    assert fit(np.concatenate([thetas, thetas])).k == 5
