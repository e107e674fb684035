"""The sketch is a function of ΔW: factors, rank and order change nothing, other trainings everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.space.spaces import MODULES, make_layout
from tests.space.test_canonical_gauge import refactored, regauged, trained
from w2w_registry.space.sketch import (
    NEAR,
    SIZE,
    Sketch,
    cells,
    distance,
    near_cells,
    packed,
    sketch,
    sketches,
    unpacked,
)

WIDTH = 24


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.integers(0, 2))
def test_one_model_has_one_sketch(seed: int, rank: int, spare: int) -> None:
    layout = make_layout(rank=rank, width=WIDTH)
    tensors = layout.unflatten(trained(layout, 1, seed)[0])
    alphas = dict.fromkeys(MODULES, layout.alpha)
    mine = sketch(tensors, alphas)
    assert mine.values.shape == (SIZE,)
    (near,) = near_cells([mine])
    assert cells([mine])[0] in near
    again = sketch(regauged(tensors, seed), dict(reversed(alphas.items())))
    padded = sketch(refactored(tensors, spare), dict.fromkeys(MODULES, layout.alpha * (rank + spare) / rank))
    for other in (again, padded):
        assert distance(mine, other) < 1e-4
        assert abs(other.norm / mine.norm - 1) < 1e-4
        assert cells([other])[0] in near
    dense = [alphas[m] / rank * tensors[(m, "B")].astype(float) @ tensors[(m, "A")].astype(float) for m in alphas]
    np.testing.assert_allclose(mine.norm, np.sqrt(sum(np.sum(w**2) for w in dense)), rtol=1e-5)


def test_distances_are_those_of_the_models() -> None:
    """On average; and no two people come near."""
    layout = make_layout(rank=1, width=WIDTH)
    thetas = trained(layout, 30)
    alphas = dict.fromkeys(MODULES, layout.alpha)
    sketches = [sketch(layout.unflatten(t), alphas) for t in thetas]
    ratios = []
    for i in range(0, 30, 2):
        a, b = layout.unflatten(thetas[i]), layout.unflatten(thetas[i + 1])
        gaps = [layout.alpha * (a[(m, "B")] @ a[(m, "A")] - b[(m, "B")] @ b[(m, "A")]) for m in MODULES]
        found = distance(sketches[i], sketches[i + 1])
        assert found > NEAR
        size = max(sketches[i].norm, sketches[i + 1].norm)
        ratios.append(found * size / np.sqrt(sum(np.sum(g**2) for g in gaps)))
    assert 0.8 < np.mean(ratios) < 1.2


def test_nothing_is_the_same_as_nothing() -> None:
    layout = make_layout(rank=1, width=WIDTH)
    empty = {k: np.zeros_like(v) for k, v in layout.unflatten(np.ones(layout.dim, np.float32)).items()}
    nothing = sketch(empty, dict.fromkeys(MODULES, 1.0))
    assert (nothing.norm, distance(nothing, nothing)) == (0.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-12, 1e-3, 1.0, 1e6]))
def test_a_stored_sketch_is_the_sketch_but_for_rounding(seed: int, size: float) -> None:
    """However large its floats are, and however few of them there are; earlier releases stored float32."""
    values = (np.random.default_rng(seed).normal(size=SIZE) * size).astype(np.float32)
    values[:: seed % 5 + 2] = 0
    stored = packed(Sketch(values, 1.0))
    assert len(stored) == SIZE + 4
    now, before = unpacked([stored, values.tobytes()])
    assert np.linalg.norm(now - values) < 0.01 * np.linalg.norm(values)
    assert (before == values).all()
    assert (now[values == 0] == 0).all()


def test_of_a_sketch_with_one_large_float_rounding_leaves_enough() -> None:
    values = np.full(SIZE, 0.49 / 127, np.float32)
    values[0] = 1
    (now,) = unpacked([packed(Sketch(values, 1.0))])
    assert 0.05 < np.linalg.norm(now - values) / np.linalg.norm(values) < NEAR
    assert not unpacked([packed(Sketch(np.zeros(SIZE, np.float32), 0.0))]).any()


def test_many_are_sketched_as_each_alone() -> None:
    layout = make_layout(rank=2)
    thetas = np.random.default_rng(4).standard_normal((5, layout.dim)).astype(np.float32)
    alphas = {module: 1.0 + i for i, module in enumerate(layout.modules)}
    stacked = {t.key: thetas[:, place].reshape(5, *t.shape) for t, place in layout.slices()}
    for theta, found in zip(thetas, sketches(stacked, alphas), strict=True):
        alone = sketch(layout.unflatten(theta), alphas)
        assert np.allclose(found.values, alone.values, rtol=1e-6, atol=1e-6)
        assert np.isclose(found.norm, alone.norm)


def test_a_cell_fits_a_column_and_few_share_one() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=SIZE)
    drawn = [Sketch((common + rng.normal(size=SIZE)).astype(np.float32), 4 * 2**0.5) for _ in range(2000)]
    numbers = cells(drawn)
    assert all(0 <= number < 2**63 for number in numbers)
    assert len(set(numbers)) > 1990
    assert all(len(near) <= 64 for near in near_cells(drawn[:200]))
    flat = Sketch(np.ones(SIZE, np.float32), 1.0)  # any number of ties
    assert 0 < len(near_cells([flat])[0]) <= 64
