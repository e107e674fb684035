"""Verdicts: who is it among N, and is it anybody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space.verdict import (
    FEW_REPEATS,
    SAME,
    TAIL,
    Repeats,
    Strangers,
    VerdictModel,
    learn,
    log_mean,
    log_mean_of_others,
    presume,
)

Array = NDArray[np.float64]
WIDTH = 40


class World:
    """People in clusters, and trainings of them with coloured noise; foreign ones are louder and noisier."""

    def __init__(self, people: int = 600, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rng, self.scale = rng, np.arange(1, WIDTH + 1) ** -0.7
        kinds = rng.normal(size=(6, WIDTH)) * 1.5
        self.mix = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
        self.noise = 0.3 * rng.permutation(self.scale)
        self.people = (kinds[rng.integers(6, size=people)] + rng.normal(size=(people, WIDTH))) * self.scale @ self.mix

    def trained(self, rows: NDArray[np.int64], louder: float = 1.0, noisier: float = 1.0) -> Array:
        grain = self.rng.normal(size=(len(rows), WIDTH)) * self.noise * noisier
        return np.asarray(louder * self.people[rows] + grain)


@pytest.fixture(scope="module")
def world() -> tuple[World, Array, VerdictModel]:
    world = World()
    gallery = world.trained(np.arange(400))
    taught, also = np.arange(100), np.arange(100, 160)
    model = learn(
        gallery,
        [
            Repeats("retrained", world.trained(taught), taught),
            Repeats("foreign", world.trained(also, 1.2, 1.5), also),
        ],
    )
    return world, gallery, model


def accepted(model: VerdictModel, gallery: Array, queries: Array, of: Array, strangers: Array) -> float:
    bar = np.quantile(model.score(strangers, gallery).max(1), 0.98)
    scores = model.score(queries, gallery)
    own = scores[np.arange(len(of)), of]
    return float(((scores.argmax(1) == of) & (own > bar)).mean())


def test_what_repeats_taught_beats_cosine_on_people_it_never_saw(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, model = world
    plain = learn(gallery)
    assert not plain.learned
    assert model.learned
    of, strangers = np.arange(200, 400), people.trained(np.arange(400, 600))
    for louder, noisier in ((1.0, 1.0), (1.2, 1.5)):
        queries = people.trained(of, louder, noisier)
        ours = accepted(model, gallery, queries, of, strangers)
        assert ours > 0.9
        assert ours > accepted(plain, gallery, queries, of, strangers) + 0.05


def test_false_alarms_happen_as_often_as_said(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, model = world
    best = model.score(np.vstack([people.trained(np.arange(400, 600)) for _ in range(3)]), gallery).max(1)
    chance = model.strangers.false_alarm(best, len(gallery))
    for rate in (0.02, 0.1, 0.3):
        assert 0.3 * rate < (chance <= rate).mean() < 2.5 * rate


def test_a_larger_gallery_alarms_more_often(world: tuple[World, Array, VerdictModel]) -> None:
    strangers = world[2].strangers
    scores = np.linspace(strangers.best[0] - 1, strangers.best[-1] + 40, 300)
    small, large = (strangers.false_alarm(scores, n) for n in (100, 100_000))
    assert (np.diff(small) <= 1e-12).all()
    assert (np.diff(large) <= 1e-12).all()
    assert (large >= small).all()
    assert large[0] == 1.0
    assert 0 < small[-1] < 1e-3


def test_words_follow_the_chance_of_an_alarm(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, model = world
    scores = model.score(people.trained(np.array([300])), gallery)[0]
    found = model.judge(scores, len(gallery))
    assert found.word[300] == "same"
    assert found.false_alarm[300] <= 0.01
    assert found.word.count("same") == 1
    assert found.gap is not None
    assert found.gap > 0
    assert set(model.judge(np.array([-1e9]), len(gallery)).word) == {"no"}
    assert model.judge(np.array([-1e9]), 1).gap is None


def test_whoever_is_taken_for_absent_is_not_found(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, model = world
    absent = np.zeros((1, 400), bool)
    absent[0, 300] = True
    query = people.trained(np.array([300]))
    scores = model.score(query, gallery, absent)
    assert scores[0, 300] == -np.inf
    # As if the row had not been there at all.
    assert np.allclose(np.delete(scores[0], 300), model.score(query, np.delete(gallery, 300, 0))[0])


def test_copies_of_one_person_are_no_strangers(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, _ = world
    twice = np.vstack([gallery, gallery[:200] + 1e-3])
    who = np.concatenate([np.arange(400), np.arange(200)])
    taught = np.arange(100)
    given_repeats = [Repeats("retrained", people.trained(taught), taught)]
    naive, told = learn(twice, given_repeats), learn(twice, given_repeats, people=who)
    assert np.quantile(naive.strangers.best, 0.9) > np.quantile(told.strangers.best, 0.9) + 5


def test_a_model_survives_being_written_down(world: tuple[World, Array, VerdictModel]) -> None:
    _, gallery, model = world
    again = VerdictModel.from_arrays(model.to_arrays())
    assert [t.name for t in again.trainings] == ["retrained", "foreign"]
    assert np.array_equal(model.score(gallery[:5], gallery), again.score(gallery[:5], gallery))
    assert np.array_equal(model.strangers.best, again.strangers.best)


def test_one_earlier_release_kept_strays_as_a_gaussian_does(world: tuple[World, Array, VerdictModel]) -> None:
    arrays = world[2].to_arrays()
    earlier = VerdictModel.from_arrays({**arrays, "numbers": arrays["numbers"][:3]})
    assert (world[2].tail, earlier.tail) == (TAIL, None)
    assert VerdictModel.from_arrays(earlier.to_arrays()).tail is None


def test_a_training_that_strays_far_is_its_person_all_the_same(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, model = world
    gaussian, nearly = replace(model, tail=None), replace(model, tail=1e8)
    of, strangers = np.arange(200, 400), people.trained(np.arange(400, 600))
    astray = people.trained(of, 1.0, 2.0)
    own = np.arange(len(of)), of
    assert np.allclose(nearly.score(astray, gallery)[own], gaussian.score(astray, gallery)[own], atol=0.05)
    assert model.score(astray, gallery)[own].min() > gaussian.score(astray, gallery)[own].min() + 10
    ours, before = (accepted(m, gallery, astray, of, strangers) for m in (model, gaussian))
    assert ours >= before


def test_few_repeats_teach_nothing_and_few_people_even_less(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, _ = world
    taught = np.arange(FEW_REPEATS - 1)
    assert not learn(gallery, [Repeats("retrained", people.trained(taught), taught)]).learned
    with pytest.raises(UsageError, match="20 people"):
        learn(gallery[:19])


@pytest.mark.parametrize("people", [150, 300])
def test_presumed_noise_finds_more_than_cosine_and_alarms_as_seldom_as_it_says(people: int) -> None:
    world = World(people + 400)
    world.noise = 0.1 * world.scale
    of, strangers = np.arange(people), world.trained(np.arange(people, people + 400))
    gallery = world.trained(of)
    plain = learn(gallery)
    model = presume(plain, gallery, of)
    assert model.in_nats
    assert not model.learned
    for louder in (1.0, 0.75):
        queries = world.trained(of, louder)
        ours, cosine = (accepted(m, gallery, queries, of, strangers) for m in (model, plain))
        assert ours >= max(cosine, 0.9)
    best = model.score(strangers, gallery).max(1)
    assert (model.strangers.false_alarm(best, people) <= SAME).mean() <= 3 * SAME
    again = VerdictModel.from_arrays(model.to_arrays())
    assert np.allclose(again.score(strangers[:5], gallery), model.score(strangers[:5], gallery))


def test_among_few_people_nothing_is_presumed() -> None:
    world, few = World(60), np.arange(60)
    plain = learn(gallery := world.trained(few))
    assert presume(plain, gallery, few) is plain
    assert not plain.in_nats


def test_the_fewest_repeats_that_count_do_no_harm(world: tuple[World, Array, VerdictModel]) -> None:
    people, gallery, _ = world
    taught = np.arange(FEW_REPEATS)
    model = learn(gallery, [Repeats("retrained", people.trained(taught), taught)])
    of, strangers = np.arange(200, 400), people.trained(np.arange(400, 600))
    queries = people.trained(of)
    figures = [accepted(m, gallery, queries, of, strangers) for m in (model, learn(gallery))]
    assert model.learned
    assert figures[0] > figures[1]


@given(st.integers(2, 30), st.integers(0, 1000), st.floats(0.1, 300))
@settings(deadline=None, max_examples=50)
def test_the_mean_of_the_others_is_what_it_says(width: int, seed: int, spread: float) -> None:
    values = np.random.default_rng(seed).normal(size=(3, width)) * spread
    others = log_mean_of_others(values)
    for column in range(width):
        assert np.allclose(others[:, column], log_mean(np.delete(values, column, 1)), rtol=1e-6, atol=1e-6)


def test_a_stranger_as_good_as_the_best_seen_is_still_possible() -> None:
    strangers = Strangers(np.sort(np.random.default_rng(0).gumbel(size=500)), 100, 500)
    top = strangers.best[-1]
    assert 1e-4 < strangers.false_alarm(top, 100) < 0.02
    assert strangers.false_alarm(top + 50, 100) < 1e-9
