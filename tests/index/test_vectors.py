from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.index.oracle import unit
from w2w_registry.errors import IntegrityError
from w2w_registry.index.vectors import as_batch, as_vectors, contenders, kth_largest, rounding, score


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 300))
def test_a_score_is_the_exact_product_rounded_once_and_the_same_in_any_company(seed: int, count: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    rows, query = unit(rng, count, dim), unit(rng, 1, dim)[0]
    found = score(rows, query)
    for i, row in enumerate(rows):
        exact = math.fsum(float(a) * float(b) for a, b in zip(row, query, strict=True))
        assert abs(float(found[i]) - exact) <= float(np.spacing(np.float32(abs(exact)))) * 0.51 + 1e-15
    some = rng.permutation(count)[: rng.integers(1, count + 1)]
    np.testing.assert_array_equal(score(rows[some], query), found[some])


@given(st.integers(0, 2**32), st.integers(1, 300))
def test_a_float32_product_lies_within_the_rounding_bound_of_the_score(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    rows, query = unit(rng, 20, dim, rng.uniform(0, 2)), unit(rng, 1, dim)[0]
    in_sequence = np.zeros(20, np.float32)
    for j in range(dim):  # the order of summation that BLAS would never choose
        in_sequence += rows[:, j] * query[j]
    for product in (rows @ query, in_sequence):
        assert (np.abs(product - score(rows, query)) <= rounding(dim)).all()


def test_of_an_id_given_twice_the_last_row_stays() -> None:
    vectors = np.eye(4, dtype=np.float32)
    ids, rows = as_batch([5, 2, 5, 2], vectors, 4)
    assert ids.tolist() == [2, 5]
    np.testing.assert_array_equal(rows, vectors[[3, 2]])


@pytest.mark.parametrize(
    "bad",
    [
        np.full((1, 3), np.nan),
        np.array([[np.inf, 0, 0]]),
        np.array([[1.0, 0.2, 0.0]]),
        np.array([[3e38, 3e38, 0.0]]),
        np.zeros((2, 4)),
        np.zeros((1, 1, 3)),
    ],
    ids=["nan", "inf", "too long", "overflow", "wrong width", "wrong rank"],
)
def test_what_is_not_a_row_of_norm_at_most_one_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(IntegrityError):
        as_vectors(bad, 3)


def test_ids_and_rows_have_to_pair_up() -> None:
    with pytest.raises(IntegrityError):
        as_batch([1, 2, 3], np.zeros((2, 4), np.float32), 4)


@given(st.integers(1, 4), st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_contenders_hold_whoever_is_among_the_best(limit: int, rows: int, seed: int) -> None:
    values = np.random.default_rng(seed).choice(np.linspace(-1, 1, 50), rows).astype(np.float32)
    chosen = contenders(values, limit, 8)
    assert set(np.flatnonzero(values >= kth_largest(values, limit))) <= set(chosen.tolist())
