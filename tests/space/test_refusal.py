"""Does a fingerprint draw somebody who refused: refused where that is sure, held where it is not, else passed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from w2w_registry.consent.references import bits_of, cosines, likeliest
from w2w_registry.space.refusal import (
    ALARM,
    HOLD,
    HOLD_MADE,
    Comparison,
    Kept,
    Nearer,
    chance,
    few_chance,
    few_model,
    is_current,
    is_few,
    refusal_model,
    standing_out,
)
from w2w_registry.space.verdict import Repeats, VerdictModel, learn
from w2w_registry.space.ways import WAYS

Array = NDArray[np.float64]
WIDTH, REFUSED = 96, 20


def expected(model: VerdictModel, fingerprint: Array) -> list[Array]:
    """What each view expects (d,) of the person of a fingerprint (D,): what references of earlier releases are."""
    if is_few(model):
        return [fingerprint]
    return [view.expected(model.project(fingerprint))[0] for view in model.views]


class People:
    """As people's fingerprints are: a spectrum that falls, and trainings that differ by white noise."""

    def __init__(self, registered: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.spread = np.arange(1, WIDTH + 1) ** -0.6
        self.refused, self.registered = self.some(REFUSED), self.some(registered)

    def some(self, count: int) -> Array:
        return self.rng.normal(size=(count, WIDTH)) * self.spread

    def again(self, rows: Array, noise: float = 0.01) -> Array:
        white = np.sqrt(noise * (self.spread**2).sum() / WIDTH)
        return rows + white * self.rng.normal(size=rows.shape)

    def shorter(self, rows: Array, length: float = 0.7) -> Array:
        """As a few steps leave it: what people have in common first, the rest fainter, and never quite the same."""
        learned = length * (self.spread / self.spread[0]) ** 0.3
        return learned * rows + 0.15 * self.spread * self.rng.normal(size=rows.shape)


@pytest.mark.parametrize("registered", [25, 60, 300])
def test_who_refused_is_known_again_and_strangers_pass(registered: int) -> None:
    people = People(registered)
    model = refusal_model(people.registered)
    again = Comparison(model, people.again(people.refused), people.registered).with_known(people.refused)
    own = np.diag(again)
    assert (own <= HOLD).mean() >= 0.95
    assert registered < 60 or (own <= ALARM).mean() >= 0.9
    strangers = Comparison(model, people.some(400), people.registered, among=REFUSED).with_known(people.refused)
    assert (strangers.min(1) <= ALARM).mean() <= 0.005
    assert (strangers.min(1) <= HOLD).mean() <= 0.02


def test_where_few_are_registered_those_who_refused_say_how_people_differ() -> None:
    people = People(5)
    crowd, theirs = np.concatenate([people.registered, people.refused]), 5 + np.arange(REFUSED)
    model = refusal_model(crowd)
    comparison = Comparison(model, people.again(people.refused), crowd)
    own, as_a_stranger = (np.diag(comparison.with_known(people.refused, where)) for where in (theirs, None))
    assert (own <= HOLD).mean() >= 0.95
    assert (own <= as_a_stranger).all()  # nobody is somebody else than themselves
    strangers = Comparison(model, people.some(400), crowd, among=REFUSED).with_known(people.refused, theirs)
    assert (strangers.min(1) <= ALARM).mean() <= 0.005
    assert (strangers.min(1) <= HOLD).mean() <= 0.02


def test_a_fingerprint_is_estimated_from_signs_with_their_key_alone() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 512))
    key, contexts = bytes(32), [f"set {n}" for n in range(8)]
    signs = np.concatenate([bits_of(rows, key, context) for context in contexts], axis=1)

    def cosine(found: Array) -> Array:
        return np.asarray((found * rows).sum(1) / np.linalg.norm(rows, axis=1))

    assert cosine(likeliest(signs, key, contexts, 512)).min() > 0.985
    assert np.abs(cosine(likeliest(signs, b"1" * 32, contexts, 512))).max() < 0.25


@pytest.mark.parametrize("registered", [5, 300])
def test_what_is_kept_says_the_same(registered: int) -> None:
    people = People(registered)
    model = few_model(WIDTH) if registered < 20 else refusal_model(people.registered)
    comparison = Comparison(model, people.again(people.refused), people.registered, among=REFUSED)
    known = comparison.with_known(people.refused)
    for column, one in enumerate(people.refused):
        views = []
        for n, (mine, view) in enumerate(zip(comparison.asked, expected(model, one), strict=True)):
            bits = [bits_of(v, bytes(32), f"view {n}") for v in (mine, view)]
            views.append(Kept(float(np.linalg.norm(view)), cosines(bits[1][0], bits[0])))
        kept = comparison.with_kept(views)
        assert (kept[column] <= HOLD) == (known[column, column] <= HOLD)
        assert ((kept <= ALARM) == (known[:, column] <= ALARM)).mean() >= 0.95


def test_noise_learned_from_several_kinds_is_asked_beside_what_is_presumed() -> None:
    people = People(300)
    louder = Repeats("loud", people.again(1.6 * people.registered[:40], 0.05), np.arange(40))
    native = Repeats("again", people.again(people.registered[40:100]), np.arange(40, 100))
    plain = refusal_model(people.registered, learn(people.registered, [native]))
    taught = refusal_model(people.registered, learn(people.registered, [native, louder]))
    assert [len(model.trainings) for model in (plain, taught)] == [len(WAYS), len(WAYS) + 2]
    asked = people.again(1.6 * people.refused, 0.05)
    missed = [
        (np.diag(Comparison(model, asked, people.registered).with_known(people.refused)) > ALARM).mean()
        for model in (plain, taught)
    ]
    assert missed[1] <= min(missed[0], 0.1)


def test_who_was_trained_for_a_few_steps_is_known_and_strangers_so_trained_pass() -> None:
    people = People(600)
    model = refusal_model(people.registered)
    asked = people.shorter(people.refused)
    comparison = Comparison(model, asked, people.registered, among=REFUSED)
    together, by_itself = comparison.ratios(people.refused, np.full(REFUSED, -1))
    assert (np.diag(by_itself) > np.diag(together)).mean() >= 0.95  # than by what is asked of finished trainings
    assert (by_itself.argmax(1) == np.arange(REFUSED)).mean() >= 0.95
    assert (np.diag(comparison.with_known(people.refused)) <= HOLD).mean() >= 0.9
    strangers = Comparison(model, people.shorter(people.some(600)), people.registered, among=REFUSED)
    alarms = strangers.with_known(people.refused).min(1)
    assert (alarms <= ALARM).mean() <= 0.002
    assert (alarms <= HOLD).mean() <= 0.01


def test_of_what_was_made_who_is_half_disturbed_is_known_and_few_strangers() -> None:
    people = People(600)
    model = refusal_model(people.registered)

    def disturbed(rows: Array) -> Array:
        return people.again(rows) + 0.5 * people.spread * people.rng.normal(size=rows.shape)

    nobody = np.full(REFUSED, -1)
    asked = Comparison(model, disturbed(people.refused), people.registered, among=REFUSED)
    assert (np.diag(asked.with_made(people.refused, nobody)) <= HOLD_MADE).mean() >= 0.95
    strangers = Comparison(model, disturbed(people.some(600)), people.registered, among=REFUSED)
    assert (strangers.with_made(people.refused, nobody).min(1) <= HOLD_MADE).mean() <= 2 * HOLD_MADE


def test_weights_make_sure_of_what_is_drawn_alone_does_not() -> None:
    """Disturbed past knowing by what is drawn; by weights somebody stands out as far as strangers seldom do."""
    people = People(400)
    model, nobody = refusal_model(people.registered), np.full(REFUSED, -1)
    asked = people.refused + 1.5 * people.spread * people.rng.normal(size=people.refused.shape)
    comparison = Comparison(model, asked, people.registered, among=REFUSED)
    crowd = np.where(np.eye(400, dtype=bool), np.nan, people.rng.normal(size=(400, 400)))
    nearer = Nearer(people.rng.normal(size=(REFUSED, REFUSED)) + 6 * np.eye(REFUSED), crowd)
    alone, both = (comparison.with_made(people.refused, nobody, given) for given in (None, nearer))
    assert (np.diag(both) <= HOLD).mean() >= (np.diag(alone) <= HOLD).mean() + 0.2
    assert (both[~np.eye(REFUSED, dtype=bool)] <= HOLD).mean() <= 0.01
    nearer.refused[0] = np.nan  # of whom weights say nothing, what is drawn decides
    assert (comparison.with_made(people.refused, nobody, nearer)[0] == alone[0]).all()


def test_the_chance_is_how_often_the_registered_come_as_near_however_their_hits_crowd_together() -> None:
    people = People(500)
    model, nobody = refusal_model(people.registered), np.full(REFUSED, -1)

    def weights(*size: int) -> Array:  # so far apart that what is drawn adds nothing
        return 1e4 * people.rng.standard_t(8, size=size) * people.rng.gamma(2, 1 / 2, size=(size[0], 1))

    crowd = np.where(np.eye(500, dtype=bool), np.nan, weights(500, 500))
    found = Comparison(model, people.some(1500), people.registered, among=REFUSED).with_made(
        people.refused, nobody, Nearer(weights(1500, REFUSED), crowd)
    )
    for p in (0.02, 0.1):
        assert p / 2 <= (found.min(1) <= p).mean() <= 2 * p


def test_standing_out_is_in_deviations_of_ones_own_strangers() -> None:
    rng = np.random.default_rng(0)
    outside, inside = 0.1 + 0.06 * rng.normal(size=(5, 400)), 0.03 * rng.normal(size=(5, 400))
    for known, middle, spread in ((outside, 0.1, 0.06), (inside, 0.0, 0.03)):
        known[0, 0] = np.nan  # oneself
        found = standing_out(np.full((5, 2), middle + 5 * spread), known)
        assert np.abs(found - 5).max() < 0.7
        assert (standing_out(np.full((5, 2), 0.5), known, [0.0, 0.1])[:, 1] < found[:, 1].max() + 5).all()


def test_of_what_was_made_cosines_decide_among_a_few() -> None:
    people, nobody = People(0), np.full(5, -1)
    refused = people.refused[:5]
    near, far = (
        np.diag(Comparison(few_model(WIDTH), rows, np.zeros((0, WIDTH)), among=5).with_made(refused, nobody))
        for rows in (refused + 0.4 * people.spread * people.rng.normal(size=refused.shape), people.some(5))
    )
    assert (near <= HOLD_MADE).all()
    assert (far > HOLD_MADE).all()


def test_what_was_hardly_trained_passes() -> None:
    people = People(300)
    model = refusal_model(people.registered)
    hardly = people.shorter(np.concatenate([people.refused, people.some(400)]), 0.05)
    alarms = Comparison(model, 0.1 * hardly, people.registered, among=REFUSED).with_known(people.refused)
    assert (alarms.min(1) <= HOLD).mean() <= 0.005


def test_a_comparison_is_kept_with_its_ways_of_training() -> None:
    people = People(60)
    model = refusal_model(people.registered)
    again = VerdictModel.from_arrays(model.to_arrays())
    asked = people.shorter(people.refused)
    found = [Comparison(one, asked, people.registered).with_known(people.refused) for one in (model, again)]
    assert is_current(again)
    assert np.allclose(*found)
    assert not is_current(replace(model, trainings=model.trainings[:2]))  # as an earlier release kept it


def test_the_chance_of_a_false_alarm_falls_with_evidence_and_grows_with_who_refused() -> None:
    people = People(100)
    model = refusal_model(people.registered)
    nats = np.linspace(-500, 200, 300)
    few, many = chance(model, nats, 5), chance(model, nats, 100)
    assert (np.diff(many) <= 1e-12).all()
    assert (few <= many + 1e-12).all()
    assert many[0] > 0.2
    assert many[-1] < 1e-6


def test_who_comes_near_among_the_registered_makes_the_door_more_careful() -> None:
    people = People(400)
    double = np.concatenate([people.registered[:200], people.again(people.registered[:200])])
    honest, spoilt = (refusal_model(rows) for rows in (people.registered, double))
    assert chance(spoilt, 25.0) > chance(honest, 25.0)


def test_among_a_few_nobody_is_refused_but_the_same_model_and_who_is_alike_is_held() -> None:
    alike = np.array([0.3, 0.8, 0.97, 0.9999])
    alarm = few_chance(alike, among=1)
    assert alarm[0] > HOLD
    assert ALARM < alarm[2] <= HOLD
    assert alarm[3] == 0
    assert (few_chance(alike, among=100) >= alarm).all()


def test_a_world_that_lies_on_one_side_is_no_crowd_of_doubles() -> None:
    people = People(12)
    aside = 6.0 * np.ones(WIDTH) / np.sqrt(WIDTH)
    rows, strangers = people.registered + aside, people.some(100) + aside
    known = people.refused[:3] + aside
    comparison = Comparison(few_model(WIDTH), strangers, rows, among=3).with_known(known)
    assert (comparison.min(1) <= HOLD).mean() <= 0.05
    assert (Comparison(few_model(WIDTH), people.again(known), rows, among=3).with_known(known).min(1) <= HOLD).all()
