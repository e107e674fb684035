"""Who is who, among people of whom many are there twice or thrice and nobody says who."""

from __future__ import annotations

import numpy as np
import pytest

from w2w_registry.space.people import learn_unspoilt, pairs_of_one
from w2w_registry.space.verdict import learn


def crowd(seed: int, once: int, twice: int, noise: float = 0.12) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints (n, 64) with a decaying spectrum, and whose they are."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, 65) ** -0.5
    people = rng.normal(size=(once + twice, 64)) * spread
    who = np.concatenate([np.arange(once + twice), np.arange(twice)])
    return people[who] + noise * spread * rng.normal(size=(len(who), 64)), who


@pytest.mark.parametrize(("once", "twice"), [(240, 30), (100, 100), (20, 140)])
def test_nearly_all_pairs_are_found_and_hardly_any_other(once: int, twice: int) -> None:
    found = right = 0
    for seed in range(3):
        rows, who = crowd(seed, once, twice)
        pairs = pairs_of_one(rows, np.arange(len(rows)))
        found += len(pairs)
        right += sum(who[p.i] == who[p.j] for p in pairs)
    assert right >= 0.95 * 3 * twice
    assert right >= 0.95 * found


def test_who_is_known_to_be_one_is_not_told() -> None:
    rows, who = crowd(0, 100, 30)
    assert all(who[p.i] != who[p.j] for p in pairs_of_one(rows, who))


def test_among_people_who_are_all_there_once_hardly_anybody_is_paired() -> None:
    assert sum(len(pairs_of_one(crowd(seed, 300, 0)[0], np.arange(300))) for seed in range(6)) <= 3  # ONCE in each


def test_no_more_pairs_are_two_people_than_is_said() -> None:
    for once, twice in ((300, 6), (240, 30), (100, 100)):
        rows, who = crowd(5, once, twice)
        pairs = pairs_of_one(rows, np.arange(len(rows)))
        assert pairs
        wrong = sum(who[p.i] != who[p.j] for p in pairs)
        assert wrong <= max(1, max(p.strangers for p in pairs))


def test_three_of_one_person_are_not_kept_apart_by_one_another() -> None:
    rows, who = crowd(1, 220, 40)
    spread = np.arange(1, 65) ** -0.5
    third = rows[:2] + 0.12 * spread * np.random.default_rng(0).normal(size=(2, 64))
    pairs = {(p.i, p.j) for p in pairs_of_one(np.concatenate([rows, third]), np.arange(len(rows) + 2))}
    twin = {int(who[n]): n for n in range(260, 300)}
    assert sum({(n, twin[n]), (n, 300 + n), (twin[n], 300 + n)} <= pairs for n in range(2)) == 2


@pytest.mark.parametrize("epochs", [2, 3, 5, 10])
def test_epochs_of_one_training_hide_neither_one_another_nor_anybody_else(epochs: int) -> None:
    rows, who = crowd(1, 200, 40)
    rng = np.random.default_rng(0)
    people = np.arange(40, 52)  # who are there once otherwise
    nearly = [rows[people] + 0.004 * rng.normal(size=(12, 64)) for _ in range(epochs - 1)]
    everybody, whose = np.concatenate([rows, *nearly]), np.concatenate([who, *[who[people]] * (epochs - 1)])
    pairs = pairs_of_one(everybody, np.arange(len(everybody)))
    true = 40 + 12 * epochs * (epochs - 1) // 2
    right = sum(whose[p.i] == whose[p.j] for p in pairs)
    assert right >= 0.95 * true
    assert len(pairs) - right <= 1


def test_where_nearly_everybody_is_there_three_times_they_are_found() -> None:
    rows, _ = crowd(3, 60, 0)
    spread = np.arange(1, 65) ** -0.5
    again = [rows + 0.12 * spread * np.random.default_rng(n).normal(size=rows.shape) for n in range(2)]
    pairs = pairs_of_one(np.concatenate([rows, *again]), np.arange(180))
    right = sum(p.i % 60 == p.j % 60 for p in pairs)
    assert right >= 0.95 * 180
    assert right >= 0.95 * len(pairs)


def test_versions_that_are_nearly_one_hide_no_twin() -> None:
    rows, who = crowd(0, 200, 30)
    again = np.repeat(np.arange(200, 230), 3)  # all who are there twice have three more versions, all but the same
    more = np.concatenate([rows, rows[again] + 1e-4 * np.random.default_rng(0).normal(size=(len(again), 64))])
    numbers = np.concatenate([np.arange(len(rows)), again])
    whose = np.concatenate([who, who[again]])
    pairs = pairs_of_one(more, numbers)
    right = {int(whose[p.i]) for p in pairs if whose[p.i] == whose[p.j]}
    assert len(right) >= 28
    assert sum(whose[p.i] != whose[p.j] for p in pairs) <= 1


def test_who_is_registered_twice_does_not_make_strangers_look_near() -> None:
    rows, who = crowd(2, 200, 60)
    numbers = np.arange(len(rows))
    known, blind, mended = (
        model.strangers.false_alarm(0.97, 260)
        for model in (learn(rows, people=who), learn(rows, people=numbers), learn_unspoilt(rows, people=numbers))
    )
    assert blind > 5 * known
    assert mended <= 2 * known


@pytest.mark.parametrize(("people", "times", "noise"), [(30, 4, 0.0), (30, 3, 0.0), (40, 2, 0.0), (30, 4, 0.05)])
def test_copies_of_one_model_teach_nothing_about_training(people: int, times: int, noise: float) -> None:
    """Else the noise of a training is none at all, and everybody is taken for everybody."""
    rng = np.random.default_rng(0)
    whose = np.repeat(np.arange(people), times)
    rows = (rng.normal(size=(people, 128)) * np.linspace(3, 0.1, 128))[whose] + noise * rng.normal(
        size=(len(whose), 128)
    )
    found = pairs_of_one(rows, np.arange(len(whose)))
    assert all(whose[pair.i] == whose[pair.j] for pair in found)
    assert len(found) in (0, people * times * (times - 1) // 2)
