"""Sums of products: the same numbers whoever adds them up, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.space.spaces import make_layout
from w2w_registry.space import WeightSpace
from w2w_registry.space.rounding import exact_product, summing_error

POINTS = 60


def drawn_space(width: int = 700, k: int = 300) -> WeightSpace:
    """A space of ``k`` orthonormal components, some of its standard deviations negative, as the public release's."""
    rng = np.random.default_rng(0)
    layout = make_layout(width=width)
    dim = layout.dim
    return WeightSpace(
        base_model="acme/base",
        base_revision=None,
        layout=layout,
        mean=(1e-3 * rng.normal(size=dim)).astype(np.float32),
        std=(rng.uniform(0.5, 2, dim) * rng.choice([-1, 1], dim)).astype(np.float32),
        components=np.linalg.qr(rng.normal(size=(dim, k)))[0].astype(np.float32),
        component_std=np.ones(k, np.float32),
        explained_variance_ratio=np.zeros(0, np.float32),
        fit_set_digest="0" * 64,
        fit_size=k,
    )


SPACE = drawn_space()
DRAWN = np.random.default_rng(1).normal(size=(POINTS, SPACE.k)).astype(np.float32)


def test_the_order_of_adding_does_not_show() -> None:
    """Another machine's library adds in another order: here, the components come in another one. Two great coordinates
    that cancel out make the sums' last bits show often; of a plain point they do in one number of some millions."""
    components = SPACE.components.copy()
    components[:, 1] = components[:, 0]
    space = replace(SPACE, components=components)
    points = DRAWN[:12].copy()
    points[:, 0], points[:, 1] = 1e4, -1e4
    theta = space.reconstruct(points)
    plain = points.astype(np.float64) @ components.astype(np.float64).T
    differed = 0
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(space.k)
        other = replace(space, components=components[:, order])
        assert other.reconstruct(points[:, order]).tobytes() == theta.tobytes()
        shuffled = points[:, order].astype(np.float64) @ other.components.astype(np.float64).T
        one, two = ((z * space.std.astype(np.float64) + space.mean).astype(np.float32) for z in (plain, shuffled))
        differed += int((one != two).sum())
    assert differed, "no last bit showed, so this could not have failed"


def test_alone_or_among_many() -> None:
    theta = SPACE.reconstruct(DRAWN)
    for point, row in zip(DRAWN, theta, strict=True):
        assert SPACE.reconstruct(point).tobytes() == row.tobytes()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    theta = SPACE.reconstruct(DRAWN[:4])
    monkeypatch.setattr("w2w_registry.space.basis._BLOCK", 7 * SPACE.k)
    assert replace(SPACE).reconstruct(DRAWN[:4]).tobytes() == theta.tobytes()


wide = st.floats(-3e38, 3e38, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1, width=32), wide), min_size=1, max_size=30))
@example([(0.875, 1.7439024320876235e-197), (0.40625, 1.7439024320876235e-197)])  # below all float32 numbers
def test_exact_is_exact(pairs: list[tuple[float, float]]) -> None:
    row = np.array([a for a, _ in pairs], np.float32)
    point = np.array([b for _, b in pairs], np.float64)
    expected = sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, point, strict=True)), Fraction(0))
    found = exact_product(row, point)
    # Below float64's smallest normal number nothing is exact: products of two float32 numbers never lie there.
    assert abs(Fraction(found) - expected) <= abs(expected) / 2**53 + Fraction(2) ** -1020


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400))
def test_the_error_is_bounded(seed: int, terms: int) -> None:
    rng = np.random.default_rng(seed)
    row, point = rng.normal(size=terms).astype(np.float32), rng.normal(size=terms) * 10 ** rng.uniform(-3, 3, terms)
    off = abs(float(row.astype(np.float64) @ point) - exact_product(row, point))
    assert off <= summing_error(terms) * np.linalg.norm(row.astype(np.float64)) * np.linalg.norm(point)


def test_what_is_no_number_stays_so() -> None:
    point = DRAWN[0].astype(np.float64)
    point[3] = np.inf
    with np.errstate(all="ignore"):
        assert not np.isfinite(SPACE.reconstruct(point)).any()
