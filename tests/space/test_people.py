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


def test_who_is_registered_twice_does_not_make_strangers_look_near() -> None:
    rows, who = crowd(2, 200, 60)
    numbers = np.arange(len(rows))
    known, blind, mended = (
        model.strangers.false_alarm(0.97, 260)
        for model in (learn(rows, people=who), learn(rows, people=numbers), learn_unspoilt(rows, people=numbers))
    )
    assert blind > 5 * known
    assert mended <= 2 * known
