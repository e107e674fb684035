"""Metrics against dense oracles and against a population whose signal and noise are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.baselines import csls, delta_w_scores, recall_at, theta_scores
from tests.space.spaces import make_layout
from w2w_registry.errors import UsageError
from w2w_registry.space import Metric, calibrate_scores, repeat_reliability
from w2w_registry.space.metrics import (
    Calibration,
    cosine,
    default_metric,
    powered,
    reliability_weighted,
)

SIGNAL = np.array([4.0, 3.0, 2.0, 2.0, 1.5, 1.0, 1.0, 0.5, 0.3, 0.2] + [0.0] * 24)
NOISE = 0.5
COMPONENT_STD = np.sqrt(SIGNAL**2 + NOISE**2)


def trained_twice(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, len(SIGNAL))) * SIGNAL
    first, second = (truth + NOISE * rng.normal(size=truth.shape) for _ in range(2))
    return first, second


def whitened(component_std: np.ndarray) -> Metric:
    return powered(component_std, 1.0)


def strangers(metric: Metric, points: np.ndarray) -> np.ndarray:
    """Scores of every pair of different identities."""
    units = metric.unit(points)
    return (units @ units.T)[np.triu_indices(len(units), 1)]


def recall(metric: Metric, queries: np.ndarray, gallery: np.ndarray) -> float:
    scores = metric.unit(queries) @ metric.unit(gallery).T
    return recall_at(scores, np.arange(len(queries)), 1)


@pytest.mark.parametrize("rank", [1, 3])
def test_delta_w_scores_are_those_of_the_dense_updates(rank: int) -> None:
    layout = make_layout(rank=rank)
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(4, layout.dim)), rng.normal(size=(6, layout.dim))

    def dense(theta: np.ndarray) -> np.ndarray:
        tensors = layout.unflatten(theta)
        return np.concatenate([(tensors[(m, "B")] @ tensors[(m, "A")]).ravel() for m in layout.modules])

    expected = theta_scores(np.stack([dense(t) for t in q]), np.stack([dense(t) for t in g]))
    np.testing.assert_allclose(delta_w_scores(q, g, layout), expected, atol=1e-12)
    np.testing.assert_allclose(np.diag(delta_w_scores(q, q, layout)), 1)
    assert np.all(delta_w_scores(q, np.zeros((2, layout.dim)), layout) == 0)


def test_theta_scores() -> None:
    np.testing.assert_allclose(theta_scores([[3, 4]], [[1, 0], [0, 2], [0, 0]]), [[0.6, 0.8, 0.0]])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_units_are_units_and_ignore_length(seed: int, length: float) -> None:
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(5, 8)).astype(np.float32)
    metric = whitened(np.linspace(2, 0.1, 8))
    np.testing.assert_allclose(np.linalg.norm(metric.unit(c), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(metric.unit(length * c), metric.unit(c), atol=1e-5)
    np.testing.assert_allclose(metric.unit(c)[2], metric.unit(c[2]), atol=1e-7)
    np.testing.assert_allclose(metric.score(c, -c), -1, rtol=1e-5)
    assert np.all(metric.unit(np.zeros(8)) == 0)


def test_families() -> None:
    std = np.array([4.0, 2.0, 1.0])
    c = np.array([4.0, 2.0, 1.0])
    np.testing.assert_allclose(whitened(std).unit(c), np.ones(3) / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(powered(std, 0).unit(c), cosine().unit(c), rtol=1e-6)
    # Equal reliability leaves plain whitening; no reliability at all leaves the component out.
    np.testing.assert_allclose(reliability_weighted(std, [0.5] * 3).unit(c), whitened(std).unit(c), rtol=1e-6)
    assert reliability_weighted(std, [0.9, 0.5, 0.0]).unit(c)[2] == 0
    np.testing.assert_allclose(reliability_weighted(std, std / 4).unit(c), default_metric(std).unit(c), rtol=1e-6)
    centred = Metric("centred", centre=(4.0, 2.0, 0.0))
    np.testing.assert_allclose(centred.unit(c), [0, 0, 1])


def test_records_survive_json() -> None:
    import json

    for metric in (cosine(), whitened(COMPONENT_STD), Metric("x", (1.0,), (0.5,))):
        assert Metric.from_json(json.loads(json.dumps(metric.to_json()))) == metric
    first, _ = trained_twice()
    calibration = calibrate_scores("cosine", strangers(cosine(), first))
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_weights_by_what_is_known_beat_plain_cosine_and_whitening() -> None:
    first, second = trained_twice()
    rho = repeat_reliability(*trained_twice(seed=1))
    weighted = recall(reliability_weighted(COMPONENT_STD, rho), second, first)
    default = recall(default_metric(COMPONENT_STD), second, first)
    plain, white = recall(cosine(), second, first), recall(whitened(COMPONENT_STD), second, first)
    assert weighted > max(plain, white, default)
    assert default > min(plain, white)


def test_repeat_reliability_is_signal_over_total() -> None:
    rho = repeat_reliability(*trained_twice(n=4000))
    np.testing.assert_allclose(rho, SIGNAL**2 / COMPONENT_STD**2, atol=0.05)
    with pytest.raises(UsageError, match="at least eight"):
        repeat_reliability(np.zeros((7, 3)), np.zeros((7, 3)))
    assert np.all(repeat_reliability(np.zeros((9, 3)), np.ones((9, 3))) == 0)


def test_chance_is_not_taken_for_reliability() -> None:
    """Hundreds of components of pure noise beside the real ones must not drown them."""
    rng = np.random.default_rng(0)
    first, second = trained_twice(n=100)
    noise = rng.normal(size=(2, 100, 600))
    rho = repeat_reliability(np.hstack([first, noise[0]]), np.hstack([second, noise[1]]))
    assert (rho[32:] > 0).mean() < 0.05
    assert rho[:5].min() > 0.8


def test_recall_counts_ties_against() -> None:
    scores = [[0.9, 0.5, 0.1], [0.5, 0.5, 0.4], [0.3, 0.2, 0.1]]
    assert recall_at(scores, [0, 1, 2], 1) == pytest.approx(1 / 3)
    assert recall_at(scores, [0, 1, 2], 2) == pytest.approx(2 / 3)
    assert recall_at(scores, [0, 1, 2], 3) == 1.0


def test_csls_lowers_a_hub() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(50, 20))
    gallery[7] = gallery.mean(0) * 50
    queries = gallery + 0.8 * rng.normal(size=gallery.shape) + gallery.mean(0) * 3
    scores, own = theta_scores(queries, gallery), theta_scores(gallery, gallery)
    before, after = (scores.argmax(1) == 7).sum(), (csls(scores, own).argmax(1) == 7).sum()
    assert after < before


# -- calibration --------------------------------------------------------------------------------
def test_threshold_has_the_rate_asked_for() -> None:
    first, _ = trained_twice(n=1500)
    metric = whitened(COMPONENT_STD)
    calibration = calibrate_scores(metric.name, strangers(metric, first), false_match_rate=1e-3)
    assert calibration.method == "counted"
    assert calibration.observed == pytest.approx(1e-3, rel=0.02)
    scores = strangers(metric, trained_twice(n=1500, seed=5)[0])
    assert float((scores >= calibration.threshold).mean()) == pytest.approx(1e-3, rel=0.25)


def test_tail_is_extrapolated_where_counting_ends() -> None:
    """A rate of 1e-5 from 30,000 pairs: held against 8 million fresh pairs."""
    metric = whitened(COMPONENT_STD)
    first, _ = trained_twice(n=250)
    calibration = calibrate_scores(metric.name, strangers(metric, first), false_match_rate=1e-5)
    assert calibration.method == "tail"
    fresh, _ = trained_twice(n=4000, seed=9)
    observed = float((strangers(metric, fresh) >= calibration.threshold).mean())
    assert 1e-6 < observed < 1e-4
    assert calibration.threshold < 1


def test_repeats_give_the_true_match_rate() -> None:
    first, second = trained_twice()
    metric = reliability_weighted(COMPONENT_STD, SIGNAL**2 / COMPONENT_STD**2)
    genuine = metric.score(first, second)
    calibration = calibrate_scores(metric.name, strangers(metric, first), genuine=genuine, false_match_rate=1e-4)
    assert calibration.repeats == 300
    assert calibration.true_match_rate == pytest.approx(float((genuine >= calibration.threshold).mean()))
    assert calibration.true_match_rate > 0.25


def test_degenerate_scores_still_give_a_threshold() -> None:
    assert calibrate_scores("x", np.zeros(500)).threshold == 0.0
    assert calibrate_scores("x", np.full(500, 1.0)).threshold == pytest.approx(1.0)
    scores = np.random.default_rng(0).uniform(-1, 1, 500)
    assert 0.9 < calibrate_scores("x", scores, genuine=[0.999, 1.0]).threshold <= 1.0
