"""Rotation and short codes: what the arithmetic promises, and that FAISS reads codes as we write them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.index.oracle import unit
from w2w_registry.index import codes
from w2w_registry.index.codes import GOVERNORS, PAIRS, SINGLES, Code, Rotation, Turns

ALL = pytest.mark.parametrize("kind", ["coarse", "fine", "mixed"])


def code_of(kind: str, width: int) -> Code:
    """A code for rows of ``width`` components: two bits each, four each, or four of the first half and two."""
    halves = ((SINGLES, width // 2), (PAIRS, width - width // 2))
    return Code(kind, {"coarse": ((PAIRS, width),), "fine": ((SINGLES, width),), "mixed": halves}[kind])


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


@ALL
@pytest.mark.parametrize(("dim", "limit"), [(1000, 1.02), (256, 1.06)])
def test_codes_lose_no_more_than_their_rate_allows(kind: str, dim: int, limit: float) -> None:
    vectors = Rotation(dim)(unit(np.random.default_rng(0), 400, dim, 0.27))
    code = code_of(kind, vectors.shape[1])
    vectors *= np.sqrt(len(code.parts), dtype=np.float32)  # of each part the norm is to be one
    found = codes.decode(codes.encode(vectors, code), code)
    error = ((found - vectors) ** 2).sum(axis=1).mean() / len(code.parts)
    assert error < {"coarse": 0.1108, "fine": 0.0103, "mixed": (0.1108 + 0.0103) / 2}[kind] * limit


@pytest.mark.parametrize(("dim", "parts"), [(104, 1), (512, 1), (513, 2), (1000, 2), (10_000, 2)])
def test_the_trailing_components_have_the_shorter_fine_codes(dim: int, parts: int) -> None:
    turns = Turns(dim)
    vectors = unit(np.random.default_rng(4), 5, dim, 0.27)
    turned = turns.parts(vectors)
    assert len(turned) == len(turns.fine.parts) == parts
    assert [part.shape[1] for part in turned] == [width for _, width in turns.fine.parts]
    assert turns.coarse.parts[0][1] == turned[0].shape[1]
    np.testing.assert_array_equal(turns.heads(vectors), turned[0])
    whole = np.concatenate(turned, axis=1)
    np.testing.assert_allclose(whole @ whole.T, vectors @ vectors.T, atol=3e-6)


@ALL
def test_error_norms_are_never_below_the_truth(kind: str) -> None:
    vectors = Rotation(100)(unit(np.random.default_rng(1), 300, 100, 1.0))
    code = code_of(kind, vectors.shape[1])
    scales = np.array([0.8, 0.6], np.float32)[: len(code.parts)]
    each = np.concatenate([np.full(width, scale) for (_, width), scale in zip(code.parts, scales, strict=True)])
    encoded = codes.encode(vectors, code)
    difference = (vectors.astype(np.float64) - codes.decode(encoded, code)) * each
    assert (codes.excess_norm(vectors, encoded, code, scales) >= np.linalg.norm(difference, axis=1)).all()


@ALL
@pytest.mark.parametrize("rows", [1, 32, 77])
def test_faiss_packs_as_we_do(kind: str, rows: int) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    from w2w_registry.index.faiss_scan import _blank

    code = code_of(kind, 96)
    index = _blank(code)
    picked = np.random.default_rng(2).integers(0, 16, (rows, code.groups)).astype(np.uint8)
    picked[:, -GOVERNORS:] = code.governor
    centroids = code.centroids()
    index.add(np.ascontiguousarray(centroids[np.arange(code.groups), picked].reshape(rows, -1)))
    np.testing.assert_array_equal(codes.pack(picked), faiss.vector_to_array(index.codes))


@ALL
@pytest.mark.parametrize("width", [64, 1024, 4096])
@pytest.mark.parametrize("shape", ["gaussian", "even", "one", "last", "zero"])
def test_estimates_are_within_their_bound_for_any_query(kind: str, width: int, shape: str) -> None:
    """Queries of even components, and wide ones, overflow the scan's 16-bit sums unless the governor holds them."""
    pytest.importorskip("faiss", reason="faiss is not installed")
    from w2w_registry.index.faiss_scan import _blank, _fill

    rng = np.random.default_rng(3)
    rows = unit(rng, 40, width)
    query = {
        "gaussian": unit(rng, 1, width),
        "even": np.sign(rng.standard_normal((1, width))) / np.sqrt(width),
        "one": np.eye(width)[:1],
        "last": np.eye(width)[-1:],
        "zero": np.zeros((1, width)),
    }[shape].astype(np.float32)
    rows[0] = query[0]  # the largest sum there can be
    code = code_of(kind, width)
    encoded = codes.encode(rows, code)
    index = _blank(code)
    _fill(index, codes.pack(encoded), len(rows))
    asked, excess, bound = codes.steered(query, code)
    scores, found = index.search(asked, len(rows))
    true = codes.decode(encoded, code).astype(np.float64) @ query[0]
    assert sorted(found[0].tolist()) == list(range(len(rows)))
    assert (np.abs(scores[0] - excess[0] - true[found[0]]) <= bound[0]).all()
