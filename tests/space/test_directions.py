"""Directions on a world whose truth is known: coordinates = patterns · attributes + noise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space import direction_fit as f
from w2w_registry.space import directions as d

Array = NDArray[np.float64]
NAMES = ("beard", "hat", "skin", "age")


class World:
    """n identities with four attributes, mixed into k coordinates that are then rotated to their principal axes."""

    def __init__(self, n: int = 400, k: int = 30, noise: float = 0.3, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.labels: dict[str, Array] = {
            "beard": (rng.random(n) < 0.4).astype(float),
            "skin": rng.random(n),
            "age": rng.normal(40.0, 15.0, n),
        }
        # Hats go with beards, so that a plain beard direction must leak on hats.
        self.labels["hat"] = np.where(rng.random(n) < 0.7, self.labels["beard"], (rng.random(n) < 0.5).astype(float))
        stack = np.stack([self.labels[a] for a in NAMES], axis=1)
        patterns = rng.normal(size=(len(NAMES), k)) / stack.std(0)[:, None]
        raw = (stack - stack.mean(0)) @ patterns + noise * rng.normal(size=(n, k)) * np.linspace(2.0, 0.2, k)
        raw -= raw.mean(0)
        self.axes = np.linalg.svd(raw, full_matrices=False)[2]
        self.coordinates: Array = raw @ self.axes.T
        self.std: Array = self.coordinates.std(0)
        self.patterns: Array = patterns @ self.axes.T

    def fit(self, name: str, **more: Any) -> d.Direction:
        return f.fit_direction(name, self.coordinates, self.labels[name], self.std, **more)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_shared_designs_change_nothing(world: World) -> None:
    designs = f.Designs()
    for name in NAMES:
        alone, shared = world.fit(name), world.fit(name, designs=designs)
        assert np.array_equal(alone.vector, shared.vector)
        assert alone.quality == shared.quality


@pytest.mark.parametrize("method", f.METHODS)
def test_yes_no_attribute_is_found(world: World, method: d.Method) -> None:
    found = world.fit("beard", method=method)
    assert found.binary
    assert found.quality.measure == "auroc"
    assert found.quality.value > 0.97
    assert np.linalg.norm(found.vector) == pytest.approx(1.0)
    assert found.levels[0] < found.levels[1]


def test_continuous_attribute_is_found(world: World) -> None:
    found = world.fit("age")
    assert not found.binary
    assert found.quality.measure == "r2"
    assert found.quality.value > 0.9


def test_quality_of_pure_noise_is_chance() -> None:
    rng = np.random.default_rng(1)
    coordinates = rng.normal(size=(300, 40))
    noise = f.fit_direction("x", coordinates, rng.integers(0, 2, 300).astype(float), np.ones(40))
    assert noise.quality.value == pytest.approx(0.5, abs=0.12)
    number = f.fit_direction("y", coordinates, rng.normal(size=300), np.ones(40))
    assert number.quality.value < 0.1


def test_one_unit_is_one_standard_deviation_of_the_readings(world: World) -> None:
    for name in NAMES:
        found = world.fit(name)
        readings = found.read(world.coordinates)
        moved = found.read(world.coordinates + found.step(1.0))
        np.testing.assert_allclose(moved - readings, readings.std(), rtol=1e-8)


def test_vector_is_the_covariance_aware_one_and_not_the_reader(world: World) -> None:
    """Among moves with the same effect on the reading, the vector goes the least Mahalanobis way."""
    found = world.fit("beard")
    step = found.step(1.0)
    along_reader = found.reader * (found.spread / float(found.reader @ found.reader))
    assert float(found.reader @ along_reader) == pytest.approx(float(found.reader @ step))
    length = np.linalg.norm(step / world.std)
    assert length < 0.9 * np.linalg.norm(along_reader / world.std)


def test_vector_points_where_the_attribute_moves_identities(world: World) -> None:
    """With everything else kept, the move is the attribute's own pattern, correlated attributes notwithstanding."""
    fitted = [world.fit(n) for n in NAMES]
    beard = d.debias(fitted[0], fitted[1:], world.std)
    pattern = world.patterns[0]
    cosine = float(beard.vector / world.std @ (pattern / world.std))
    cosine /= float(np.linalg.norm(beard.vector / world.std) * np.linalg.norm(pattern / world.std))
    assert cosine > 0.9


def test_debias_silences_what_is_kept(world: World) -> None:
    beard, hat = world.fit("beard"), world.fit("hat")
    before = d.with_leakage(beard, [hat]).leakage["hat"]
    clean = d.debias(beard, [hat], world.std)
    assert before > 0.3
    assert clean.leakage["hat"] == pytest.approx(0.0, abs=1e-8)
    assert clean.kept == ("hat",)
    assert float(clean.read(world.coordinates[0] + clean.step(1.0)) - clean.read(world.coordinates[0])) == (
        pytest.approx(beard.spread)
    )


def test_edit_reaches_every_target_and_keeps_the_rest(world: World) -> None:
    fitted = {n: world.fit(n) for n in NAMES}
    move = d.solve_edit([(fitted["beard"], 1.5), (fitted["skin"], -1.0)], [fitted["hat"], fitted["age"]], world.std)
    change = {n: float(f.reader @ move) / f.spread for n, f in fitted.items()}
    assert change == pytest.approx({"beard": 1.5, "skin": -1.0, "hat": 0.0, "age": 0.0}, abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_edits_add_up(first: float, second: float) -> None:
    world = _SHARED
    beard, skin, hat = _FITTED["beard"], _FITTED["skin"], _FITTED["hat"]
    both = d.solve_edit([(beard, first), (skin, second)], [hat], world.std)
    one = d.solve_edit([(beard, first), (skin, 0.0)], [hat], world.std)
    other = d.solve_edit([(beard, 0.0), (skin, second)], [hat], world.std)
    np.testing.assert_allclose(both, one + other, atol=1e-9)


def test_amount_takes_a_point_to_the_target(world: World) -> None:
    beard = world.fit("beard")
    clean_shaven = world.coordinates[world.labels["beard"] < 0.5][0]
    target = d.target_reading(beard, on=True)
    moved = clean_shaven + beard.step(d.amount_for(beard, clean_shaven, target))
    assert float(beard.read(moved)) == pytest.approx(target)
    assert d.target_reading(beard, on=True, margin=0.5) > target > d.target_reading(beard, on=False)


def test_compose_does_all_at_once(world: World) -> None:
    beard, hat = world.fit("beard"), world.fit("hat")
    pirate = d.compose("pirate", [(beard, 1.0), (hat, 2.0)], world.std)
    step = pirate.step(1.0)
    ratio = (float(hat.reader @ step) / hat.spread) / (float(beard.reader @ step) / beard.spread)
    assert ratio == pytest.approx(2.0)
    assert np.linalg.norm(pirate.vector) == pytest.approx(1.0)


def test_labels_may_be_missing(world: World) -> None:
    labels = world.labels["beard"].copy()
    labels[::3] = np.nan
    found = f.fit_direction("beard", world.coordinates, labels, world.std)
    assert found.quality.n == int(np.isfinite(labels).sum())
    assert found.quality.value > 0.95


def test_more_components_than_identities() -> None:
    """As in a space that keeps every component of its own fit set, where whitened identities are all equally far."""
    small = World(n=60, k=80)
    wide = np.concatenate([small.coordinates, np.zeros((60, 100))], axis=1)
    std = np.concatenate([small.std, np.zeros(100)])
    for method in f.METHODS:
        found = f.fit_direction("beard", wide, small.labels["beard"], std, method=method)
        assert np.isfinite(found.vector).all()
        assert found.quality.value > 0.7


def test_same_input_same_direction(world: World) -> None:
    first, second = world.fit("beard", method="logistic"), world.fit("beard", method="logistic")
    np.testing.assert_array_equal(first.vector, second.vector)
    assert first.quality == second.quality


def test_json_round_trip(world: World) -> None:
    found = d.debias(world.fit("beard"), [world.fit("hat")], world.std)
    back = d.Direction.from_json(json.loads(json.dumps(found.to_json())), found.vector, found.reader)
    assert back.to_json() == found.to_json()


@pytest.mark.parametrize(
    ("labels", "method", "words"),
    [
        (np.ones(50), "least-squares", "one side"),
        (np.full(50, 3.0), "least-squares", "same for every"),
        (np.r_[np.ones(2), np.zeros(48)], "least-squares", "one side"),
        (np.full(50, np.nan), "least-squares", "0 identities"),
        (np.linspace(0, 1, 50), "logistic", "not yes/no"),
        (np.linspace(0, 1, 50), "magic", "unknown method"),
    ],
)
def test_hopeless_labels_are_refused(labels: Array, method: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        f.fit_direction("x", np.random.default_rng(0).normal(size=(50, 5)), labels, np.ones(5), method=method)
    assert words in caught.value.fields["reason"]


def test_an_attribute_cannot_be_moved_and_kept(world: World) -> None:
    beard = world.fit("beard")
    with pytest.raises(UsageError):
        d.solve_edit([(beard, 1.0)], [beard], world.std)
    twin = d.Direction.from_json(beard.to_json() | {"attribute": "stubble"}, beard.vector, beard.reader)
    with pytest.raises(UsageError):
        d.solve_edit([(beard, 1.0)], [twin], world.std)


_SHARED = World()
_FITTED = {n: _SHARED.fit(n) for n in NAMES}
