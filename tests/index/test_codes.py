"""Rotation and short codes: what the arithmetic promises, and that FAISS reads codes as we write them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.index.oracle import unit
from w2w_registry.index import codes
from w2w_registry.index.codes import COARSE, FINE, GOVERNORS, Quantiser, Rotation

BOTH = pytest.mark.parametrize("quantiser", [COARSE, FINE], ids=["coarse", "fine"])


@settings(deadline=None, max_examples=25)
@given(dim=st.integers(1, 1400), seed=st.integers(0, 2**32))
def test_a_rotation_keeps_inner_products(dim: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed), 6, dim, 0.3)
    rotate = Rotation(dim)
    turned = rotate(vectors)
    assert turned.shape == (6, rotate.width)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=3e-6)


@pytest.mark.parametrize("dim", [64, 512, 775, 1000, 1300])
def test_rotated_axes_look_gaussian(dim: int) -> None:
    """Also a vector with one component: without mixing, its code would be all wrong."""
    rotate = Rotation(dim)
    turned = rotate(np.eye(dim, dtype=np.float32)[: min(dim, 200)]) * np.sqrt(rotate.width)
    kurtosis = (turned**4).mean(axis=1) / (turned**2).mean(axis=1) ** 2
    assert abs(np.median(kurtosis) - 3) < 0.6
    assert np.abs(turned).max() < 8


def test_a_rotation_is_the_same_for_ever() -> None:
    one = Rotation(1000)(np.eye(1000, dtype=np.float32)[:1])[0] * 32
    np.testing.assert_array_equal(
        np.round(one[:8], 3), np.array([0.055, 0.57, 1.797, -1.5, 0.914, 3.117, 0.078, -1.5], np.float32)
    )


@pytest.mark.parametrize(("dim", "head"), [(8, 8), (512, 512), (600, 512), (1000, 512), (2000, 1024), (10_000, 8192)])
def test_coarse_codes_speak_of_half_the_components_or_more(dim: int, head: int) -> None:
    assert codes.leading(dim) == head


def test_the_scale_is_the_norm_of_the_rows() -> None:
    rows = unit(np.random.default_rng(6), 50, 20)
    assert codes.scale_of(rows * np.float32(0.3)) == pytest.approx(0.3)
    assert codes.scale_of(np.zeros((3, 20), np.float32)) == codes.scale_of(rows[:0]) == 1


@BOTH
@pytest.mark.parametrize(("dim", "limit"), [(1000, 1.02), (256, 1.06)])
def test_codes_lose_no_more_than_their_rate_allows(quantiser: Quantiser, dim: int, limit: float) -> None:
    vectors = Rotation(dim)(unit(np.random.default_rng(0), 400, dim, 0.27))
    found = codes.decode(codes.encode(vectors, quantiser), quantiser)
    error = ((found - vectors) ** 2).sum(axis=1).mean()
    assert error < {"coarse": 0.1108, "fine": 0.0103}[quantiser.name] * limit


@BOTH
def test_error_norms_are_never_below_the_truth(quantiser: Quantiser) -> None:
    vectors = Rotation(100)(unit(np.random.default_rng(1), 300, 100, 1.0))
    encoded = codes.encode(vectors, quantiser)
    difference = vectors.astype(np.float64) - codes.decode(encoded, quantiser)
    assert (codes.excess_norm(vectors, encoded, quantiser) >= np.linalg.norm(difference, axis=1)).all()


@BOTH
@pytest.mark.parametrize("rows", [1, 32, 77])
def test_faiss_packs_as_we_do(quantiser: Quantiser, rows: int) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    from w2w_registry.index.faiss_scan import _blank

    width = 96
    index = _blank(quantiser, width)
    groups = quantiser.groups(width)
    picked = np.random.default_rng(2).integers(0, 16, (rows, groups)).astype(np.uint8)
    picked[:, -GOVERNORS:] = quantiser.governor
    centroids = quantiser.centroids / np.float32(np.sqrt(width))
    index.add(np.ascontiguousarray(centroids[picked].reshape(rows, -1)))
    np.testing.assert_array_equal(codes.pack(picked), faiss.vector_to_array(index.codes))


@BOTH
@pytest.mark.parametrize("width", [64, 1024, 4096])
@pytest.mark.parametrize("shape", ["gaussian", "even", "one", "zero"])
def test_estimates_are_within_their_bound_for_any_query(quantiser: Quantiser, width: int, shape: str) -> None:
    """Queries of even components, and wide ones, overflow the scan's 16-bit sums unless the governor holds them."""
    pytest.importorskip("faiss", reason="faiss is not installed")
    from w2w_registry.index.faiss_scan import _blank, _fill

    rng = np.random.default_rng(3)
    rows = unit(rng, 40, width)
    query = {
        "gaussian": unit(rng, 1, width),
        "even": np.sign(rng.standard_normal((1, width))) / np.sqrt(width),
        "one": np.eye(width)[:1],
        "zero": np.zeros((1, width)),
    }[shape].astype(np.float32)
    rows[0] = query[0]  # the largest sum there can be
    encoded = codes.encode(rows, quantiser)
    index = _blank(quantiser, width)
    _fill(index, codes.pack(encoded), len(rows))
    asked, excess, bound = codes.steered(query, quantiser)
    scores, found = index.search(asked, len(rows))
    true = codes.decode(encoded, quantiser).astype(np.float64) @ query[0]
    assert sorted(found[0].tolist()) == list(range(len(rows)))
    assert (np.abs(scores[0] - excess[0] - true[found[0]]) <= bound[0]).all()
