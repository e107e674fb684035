"""Block Lanczos against numpy's eigh: the values, the vectors, and what it says it may have missed."""

from __future__ import annotations

from types import SimpleNamespace

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_registry.space import eigen
from w2w_registry.space.eigen import Leading, _eigh, _orthonormal, lanczos, leading


def matrix(size: int, decay: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A positive matrix with eigenvalues i^-decay, and those."""
    axes, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    values = np.arange(1, size + 1, dtype=float) ** -decay
    return (axes * values) @ axes.T, values


def run(held: np.ndarray, wanted: int, width: int, tolerance: float, dtype: object = np.float64) -> Leading:
    held = held.astype(dtype)  # type: ignore[call-overload]
    return lanczos(xp, lambda block: held @ block, len(held), wanted, width, tolerance, 0, dtype, "cpu")


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(3, 90),
    wanted=st.integers(1, 90),
    width=st.integers(2, 100),  # so that the steps allowed reach the whole space
    rank=st.integers(1, 90),
    seed=st.integers(0, 9),
)
def test_whatever_the_sizes(size: int, wanted: int, width: int, rank: int, seed: int) -> None:
    """Also when blocks do not divide the size, M has few directions, or a block is the whole space."""
    wanted, rank = min(wanted, size), min(rank, size)
    held, values = matrix(size, 0.7, seed)
    low, vectors = np.linalg.eigh(held)
    values = np.where(np.arange(size) < rank, low[::-1], 0.0)
    held = (vectors[:, ::-1] * values) @ vectors[:, ::-1].T
    found = run(held, wanted, width, 0.0)
    np.testing.assert_allclose(found.values, values[:wanted], atol=1e-8)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(wanted), atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_it_misses_no_more_than_it_says(decay: float, tolerance: float) -> None:
    held, values = matrix(700, decay)
    found = run(held, 60, 20, tolerance, np.float32)
    missed = 1 - found.values.sum() / values[:60].sum()
    assert missed <= found.missed <= tolerance
    assert found.steps * 20 < 700  # and it did not simply take the whole space
    residual = np.linalg.norm(held @ found.vectors - found.vectors * found.values)
    assert residual < 0.1 * np.linalg.norm(values[:60])


@pytest.mark.parametrize(("decay", "looks"), [(0.5, 4), (1.0, 3), (1.5, 2)])
def test_it_looks_seldom(monkeypatch: pytest.MonkeyPatch, decay: float, looks: int) -> None:
    """Every look solves the problem of all columns so far: the next one waits until it is likely to be the last."""
    held, _ = matrix(900, decay)
    seen = []
    solved = eigen._eigh
    monkeypatch.setattr(eigen, "_eigh", lambda *given: seen.append(len(given[1])) or solved(*given))
    found = run(held, 80, 10, 1e-6, np.float32)
    assert found.missed <= 1e-6
    assert len(seen) <= looks < found.steps


def test_a_held_matrix_is_solved_whole_while_it_is_small() -> None:
    held, values = matrix(200, 1.0)
    found = leading(held, 7, 1e-5, 0)
    assert (found.missed, found.steps) == (0.0, 0)
    np.testing.assert_allclose(found.values, values[:7], rtol=1e-10)
    np.testing.assert_allclose(held @ found.vectors, found.vectors * found.values, atol=1e-12)


def test_a_small_problem_is_solved_where_the_rest_is_and_by_numpy_where_that_fails() -> None:
    torch = pytest.importorskip("torch")
    half = np.random.default_rng(0).standard_normal((40, 30))
    small = half @ half.T

    asked: list[int] = []

    def eigh(held):
        asked.append(len(held))
        if len(asked) == 2:
            raise torch.linalg.LinAlgError("did not converge")
        return torch.linalg.eigh(held) if len(asked) == 1 else (held[0] * torch.nan, held)

    there = SimpleNamespace(
        float64=torch.float64,
        linalg=SimpleNamespace(eigh=eigh),
        asarray=lambda array, dtype, device: torch.asarray(array, dtype=dtype),
    )
    exact = np.linalg.eigh(small)[0]
    for _ in range(3):  # it is there, gives up, and says nonsense
        values, vectors = _eigh(there, small, SimpleNamespace(type="cuda"))
        np.testing.assert_allclose(values, exact, atol=1e-9)
        np.testing.assert_allclose(vectors * values @ vectors.T, small, atol=1e-9)
    assert len(asked) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("off", [1e-7, 1e-4, 1.0])
def test_a_block_comes_out_orthonormal_however_near_it_was(dtype: type[np.floating], off: float) -> None:
    rng = np.random.default_rng(0)
    block = np.linalg.qr(rng.standard_normal((300, 12)))[0] + off * rng.standard_normal((300, 12)) / 60
    made = _orthonormal(xp, block.astype(dtype))
    assert made.dtype == dtype
    assert np.abs(made.T @ made - np.eye(12)).max() < 20 * np.finfo(dtype).eps
    assert np.linalg.matrix_rank(np.hstack([made, block]).astype(np.float64), tol=1e-4) == 12  # of the same span
