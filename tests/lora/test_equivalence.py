"""A re-save is the same model, whatever changed but ΔW; another training is not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lora.loras import make_tensors
from w2w_registry.lora import (
    Factors,
    Sameness,
    model_digest,
    model_digests,
    read_lora,
    rounding_errors,
    same_model,
    write_lora,
)
from w2w_registry.lora.tensorfile import round_to
from w2w_registry.space.layout import Layout, layout_of

formats = st.sampled_from(["peft", "diffusers", "kohya"])
dtypes = st.sampled_from(["fp32", "fp16", "bf16"])
FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def layout_and_theta(seed: int, rank: int = 1, scale_b: float = 1.0) -> tuple[Layout, np.ndarray]:
    tensors = make_tensors(seed, rank)
    for (module, factor), array in tensors.items():
        if factor == "B":
            tensors[(module, factor)] = array * np.float32(scale_b)
    layout = layout_of({k: v.shape for k, v in tensors.items()}, 27.0)
    return layout, layout.flatten(tensors)


def alike(a: np.ndarray, b: np.ndarray, layout: Layout, dtype_a: str, dtype_b: str) -> Sameness:
    alphas = dict.fromkeys(layout.modules, layout.alpha)
    return same_model(Factors(layout.unflatten(a), alphas, dtype_a), Factors(layout.unflatten(b), alphas, dtype_b))


@FIXTURE
@given(st.integers(0, 10**6), st.sampled_from([1, 4]), formats, dtypes, formats, dtypes, st.randoms())
def test_any_resave_is_the_same_model(
    tmp_path: Path, seed: int, rank: int, fmt_a: str, dtype_a: str, fmt_b: str, dtype_b: str, random: object
) -> None:
    tensors = make_tensors(seed, rank)
    keys = list(tensors)
    random.shuffle(keys)  # type: ignore[attr-defined]
    write_lora(tmp_path / "a.d" / fmt_a, tensors, 27.0, fmt=fmt_a, dtype=dtype_a)
    write_lora(
        tmp_path / "b.d" / fmt_b,
        {k: tensors[k] for k in keys},
        27.0,
        fmt=fmt_b,
        dtype=dtype_b,
        metadata={"note": str(seed)},
    )
    a, b = read_lora(tmp_path / "a.d" / fmt_a), read_lora(tmp_path / "b.d" / fmt_b)
    assert a.layout() == b.layout()
    answer = same_model(a, b)
    assert answer.same
    assert answer.how == ("equal" if dtype_a == dtype_b else "rounding")
    shared = set(model_digests(a.theta(), a.layout())) & set(model_digests(b.theta(), b.layout()))
    # Equality of digests finds every pair with at least one of the two unrounded.
    if "fp32" in (dtype_a, dtype_b) or dtype_a == dtype_b:
        assert shared


@given(st.integers(0, 10**6), st.sampled_from([1, 4]), st.integers(-9, 2), st.sampled_from(["fp16", "bf16"]))
@settings(max_examples=60, deadline=None)
def test_rounding_moves_a_model_no_further_than_stated(seed: int, rank: int, power: int, dtype: str) -> None:
    """Down to a B that fp16 loses altogether: there the bound tells that a sketch would not know the file again."""
    layout, theta = layout_and_theta(seed, rank, 10.0**power)
    exact, rounded = (layout.unflatten(x.astype(np.float64)) for x in (theta, round_to(theta, dtype)))
    moved = size = 0.0
    for module in layout.modules:
        whole, other = (layout.scale(module) * x[(module, "B")] @ x[(module, "A")] for x in (exact, rounded))
        moved, size = moved + np.sum((whole - other) ** 2), size + np.sum(whole**2)
    (stated,) = rounding_errors([theta], layout)
    assert np.sqrt(moved) <= stated * (1 + 1e-5)
    if rank == 1:
        assert stated < 0.03 * np.sqrt(size) if power >= -2 else stated > 0
    if power == -9:
        assert stated > np.sqrt(size)


@given(st.integers(0, 10**6), st.integers(1, 10**6), dtypes, dtypes)
@settings(max_examples=60, deadline=None)
def test_another_training_is_another_model(seed: int, other: int, dtype_a: str, dtype_b: str) -> None:
    """A shared A, as after a shared init, and another B."""
    layout, theta = layout_and_theta(seed)
    _, apart = layout_and_theta(seed + other)
    tensors, others = layout.unflatten(theta), layout.unflatten(apart)
    retrained = layout.flatten({k: tensors[k] if k[1] == "A" else others[k] for k in tensors})
    answer = alike(round_to(theta, dtype_a), round_to(retrained, dtype_b), layout, dtype_a, dtype_b)
    assert not answer.same
    assert not set(model_digests(theta, layout)) & set(model_digests(retrained, layout))


def test_one_module_changed_is_another_model() -> None:
    layout, theta = layout_and_theta(0)
    edited = theta.copy()
    edited[-16:] *= 1.05
    for dtype_a, dtype_b in itertools.product(("fp32", "fp16", "bf16"), repeat=2):
        assert not alike(theta, edited, layout, dtype_a, dtype_b).same


@given(st.integers(0, 10**6), st.sampled_from([1, 4]), dtypes)
@settings(max_examples=60, deadline=None)
def test_another_gauge_is_the_same_model(seed: int, rank: int, dtype: str) -> None:
    layout, theta = layout_and_theta(seed, rank)
    rng = np.random.default_rng(seed)
    tensors = {k: v.astype(np.float64) for k, v in layout.unflatten(theta).items()}
    for module in layout.modules:
        turn = np.linalg.qr(rng.normal(size=(rank, rank)))[0] * rng.uniform(0.5, 2.0)
        tensors[(module, "A")] = np.linalg.inv(turn) @ tensors[(module, "A")]
        tensors[(module, "B")] = tensors[(module, "B")] @ turn
    turned = round_to(layout.flatten(tensors), dtype)
    answer = alike(theta, turned, layout, "fp32", dtype)
    assert (answer.same, answer.how) == (True, "factors")


def test_tiny_values_lost_to_fp16() -> None:
    """B far below fp16's normal range: the rounding is coarse, yet a re-save is a re-save and others are others."""
    layout, theta = layout_and_theta(0, scale_b=1e-3)
    _, other = layout_and_theta(1, scale_b=1e-3)
    assert alike(theta, round_to(theta, "fp16"), layout, "fp32", "fp16").same
    assert not alike(theta, round_to(other, "fp16"), layout, "fp32", "fp16").same
    nothing = layout.flatten({k: v if k[1] == "A" else 0 * v for k, v in layout.unflatten(theta).items()})
    assert not alike(theta * np.float32(1), nothing, layout, "fp32", "fp16").same


def test_alpha_is_part_of_the_model() -> None:
    layout, theta = layout_and_theta(0)
    assert model_digest(theta, layout) != model_digest(theta, Layout(layout.tensors, 1.0))


def test_minus_zero_is_zero() -> None:
    layout, theta = layout_and_theta(0)
    theta[3] = 0.0
    minus = theta.copy()
    minus[3] = -0.0
    assert model_digest(theta, layout) == model_digest(minus, layout)


def test_wrong_length_is_told() -> None:
    layout, theta = layout_and_theta(0)
    with pytest.raises(ValueError, match="shape"):
        model_digest(theta[:-1], layout)


def svd_factors(a: np.ndarray, b: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """What a resize tool writes: the best factors of that rank, zero columns where there is nothing."""
    u, s, vt = np.linalg.svd(b.astype(np.float64) @ a.astype(np.float64), full_matrices=False)
    root = np.sqrt(np.concatenate([s, np.zeros(rank)])[:rank])
    left, right = np.zeros((len(b), rank)), np.zeros((rank, a.shape[1]))
    kept = min(rank, len(s))
    left[:, :kept], right[:kept] = u[:, :kept], vt[:kept]
    return (root[:, None] * right).astype(np.float32), (left * root).astype(np.float32)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.integers(0, 3), dtypes)
@settings(max_examples=60, deadline=None)
def test_another_rank_is_the_same_model_while_nothing_is_lost(seed: int, rank: int, spare: int, dtype: str) -> None:
    tensors = make_tensors(seed, rank)
    alphas = dict.fromkeys({m for m, _ in tensors}, 27.0)
    padded = {}
    for module in alphas:
        a, b = svd_factors(tensors[(module, "A")], tensors[(module, "B")], rank + spare)
        padded[(module, "A")], padded[(module, "B")] = round_to(a, dtype), round_to(b, dtype)
    # alpha grows with the rank where the same ΔW is meant
    other = Factors(padded, dict.fromkeys(alphas, 27.0 * (rank + spare) / rank), dtype)
    answer = same_model(Factors(tensors, alphas), other)
    assert (answer.same, answer.how) == (True, "factors")
    stronger = dict.fromkeys(alphas, 27.0 * 1.05 * (rank + spare) / rank)
    assert not same_model(Factors(tensors, alphas), Factors(padded, stronger, dtype)).same


@pytest.mark.parametrize(("share", "same"), [(5e-4, True), (1e-3, True), (5e-3, False), (0.05, False)])
def test_a_cut_rank_is_the_same_model_up_to_a_thousandth(share: float, same: bool) -> None:
    tensors = make_tensors(0, 2)
    alphas = dict.fromkeys({m for m, _ in tensors}, 1.0)
    whole, cut = {}, {}
    for module in alphas:
        a, b = svd_factors(tensors[(module, "A")], tensors[(module, "B")], 2)
        # a second direction that holds just this share of the whole
        first, second = (np.linalg.norm(np.outer(b[:, i], a[i])) for i in (0, 1))
        b[:, 1] *= share / np.sqrt(1 - share**2) * first / second
        whole[(module, "A")], whole[(module, "B")] = a, b
        cut[(module, "A")], cut[(module, "B")] = a[:1], b[:, :1]
    answer = same_model(Factors(whole, alphas), Factors(cut, dict.fromkeys(alphas, 0.5)))
    assert answer.error == pytest.approx(share, rel=1e-3)
    assert answer.same is same


def test_a_missing_module_is_a_difference() -> None:
    tensors = make_tensors(0, 1)
    alphas = dict.fromkeys({m for m, _ in tensors}, 1.0)
    first = next(iter(alphas))
    less = Factors({k: v for k, v in tensors.items() if k[0] != first}, {m: a for m, a in alphas.items() if m != first})
    assert not same_model(Factors(tensors, alphas), less).same
    assert not same_model(less, Factors(tensors, alphas)).same
    assert same_model(less, less).how == "equal"
