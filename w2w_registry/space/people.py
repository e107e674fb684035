"""Who is who among many: pairs of fingerprints that are one person, when nobody says how often a person is there.

People who are there twice spoil what a verdict rests on: how near strangers come is learned by searching for registered
people, and a twin looks like a near stranger. So the surest pairs are found first, without any model: each is the
other's nearest, and the gap to the next is too wide for strangers (or three or more are together: epochs of one
training). They then serve as repeats that teach the noise of a training (``space.verdict``), no longer count as
strangers, and everybody is searched for once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space.verdict import FEW_REPEATS, LEAST_GALLERY, Repeats, VerdictModel, learn, presume, strangers

WIDE: Final = 4.0
"""Gaps so many times wider than strangers' make a pair sure: among 776 people of the mini world who were there once,
one pair came so near; of 224 twice there, .89 did."""
WIDER: Final = 8.0
"""…and three or more: whoever comes near one of two who are one person comes near the other too, by the same chance."""
COPY: Final = 0.02
"""Fingerprints no farther apart than this share of their length are one model's: another training moved each of 512
people's by .08 of it or more."""
LEVEL: Final = 0.02
"""Chance of a false alarm, each way, up to which a pair may be one person…"""
FALSE: Final = 0.1
ONCE: Final = 0.5
"""…and the share of false pairs among those taken that may be expected (Benjamini & Hochberg 1995), or how many of
them, where that is more: a few who are there twice are found too."""
MISTAKEN: Final = 0.0063
"""Sure pairs that are two people, for each person compared: 31 among 7,000 of two worlds where nobody was there twice,
and 63 in 10,000 at most, at 95%."""
GATES: Final = (0.0, 3.5, 4.0, 4.5, 5.0, 5.5)
"""Gaps asked of pairs, in usual gaps: the least that leaves few enough false ones is taken (``_gated``)…"""
DECAY: Final = 0.6
TRIPLETS: Final = 4.0
"""A gap after the second nearest that is usually so many times wider than the third's says that most people are there
three times."""
UNGATED: Final = 3.0
"""…and each usual gap beyond ``UNGATED`` is said to leave exp(−``DECAY``) of them (measured: 2.5 a folder of 270 people
where none is asked for, 1.25 where 4 are, .8, .6 and .3 where 4.5, 5 and 5.5 are)."""
SHARE: Final = 0.04
"""The share of false pairs, as foretold, that is few enough."""
TOGETHER: Final = 12
"""So many others who are one person with somebody are looked for: the epochs of a training, say."""
BLOCK: Final = 256
MOST: Final = 2048
"""So many people are all compared with one another when a gallery is opened; of more, the few who are there twice are
few among the strangers that are searched for."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Rows i < j that are one person; ``score``: more is surer, ``alarm``: the greater chance of the two searches,
    ``strangers``: how many pairs of strangers as near are to be expected among all who were compared."""

    i: int
    j: int
    score: float
    alarm: float
    strangers: float


def pairs_of_one(matrix: ArrayLike, people: ArrayLike, learned: VerdictModel | None = None) -> list[Pair]:
    """Pairs of fingerprints (n, D) of one person though ``people`` (n,) calls them two, the surest first.

    As many are taken as keep the false ones to a tenth, or to one in every other registry, by what strangers' searches
    say; where that leaves more false ones than ``SHARE`` all the same, a gap to everybody else is asked for too.
    Pairs that taught the noise are no strangers any more, and those that taught it wrongly are counted besides in
    ``Pair.strangers``.

    ``learned``: a model whose noise was learned from repeats that somebody gave.

    Raises:
        UsageError: too few people.
    """
    rows, who = np.asarray(matrix, np.float64), np.unique(np.asarray(people), return_inverse=True)[1].reshape(-1)
    sure = _sure(learn(rows, people=who), rows, who)
    merged = _merged(who, sure)
    mistaken = 0.0
    alone = learned is None or not learned.learned
    if not alone and learned is not None:
        model = replace(learned, strangers=strangers(learned, rows, merged))
    else:
        # One repeat a person, the one least like the first; copies of one model say nothing about training.
        apart = {i: j for i, j in reversed(sure) if np.linalg.norm(rows[i] - rows[j]) > COPY * np.linalg.norm(rows[i])}
        enough = len(apart) >= FEW_REPEATS
        given = [Repeats("again", rows[list(apart.values())], np.array(list(apart)))] if enough else []
        model = learn(rows, given, people=merged)
        mistaken = MISTAKEN * len(np.unique(who))
    size = len(np.unique(merged))
    seen: dict[tuple[int, int], tuple[float, float]] = {}
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        scores = model.score(rows[part], rows, who[part][:, None] == who[None, :])
        alarms = model.strangers.false_alarm(np.where(np.isfinite(scores), scores, -1e300), size)
        for a, b in zip(*np.nonzero((alarms <= LEVEL) & np.isfinite(scores)), strict=True):
            seen[start + int(a), int(b)] = float(scores[a, b]), float(alarms[a, b])
    both = [
        (max(alarm, seen[j, i][1]), min(score, seen[j, i][0]), i, j)
        for (i, j), (score, alarm) in seen.items()
        if i < j and (j, i) in seen
    ]
    both.sort(key=lambda pair: (pair[0], -pair[1]))
    # So many pairs of strangers come as near: each of them searches, and a pair is found from both its ends.
    expected = np.array([alarm for alarm, *_ in both]) * size / 2
    within = np.flatnonzero(expected <= np.maximum(ONCE, FALSE * np.arange(1, len(both) + 1)))
    kept = both[: int(within[-1]) + 1 if len(within) else 0]
    pairs = [Pair(i, j, score, alarm, alarm * size / 2 + mistaken) for alarm, score, i, j in kept]
    return _gated(pairs, learn(rows, people=who), rows, who) if alone and len(rows) <= MOST else pairs


def _gated(pairs: list[Pair], plain: VerdictModel, rows: Array, who: NDArray[np.int64]) -> list[Pair]:
    """Those of the pairs whose gap to everybody else is as wide as keeps the false ones few (``GATES``). Of three or
    more who are one person each two are measured against those who are not of them."""
    if not pairs:
        return pairs
    group = _merged(who, [(pair.i, pair.j) for pair in pairs])
    near = np.concatenate([_nearness(plain, rows, who, slice(at, at + BLOCK)) for at in range(0, len(rows), BLOCK)])
    usual = _usual_gap(-np.sort(np.partition(-nearest_of_each(near, who), 4, axis=1)[:, :4], axis=1))
    besides = np.where(group[:, None] == group[None, :], -np.inf, near).max(1)
    gaps = np.array([near[p.i, p.j] - max(besides[p.i], besides[p.j]) for p in pairs]) / usual
    foretold = np.maximum.accumulate([pair.strangers for pair in pairs])
    for gate in GATES:
        left = float(np.exp(-DECAY * max(gate - UNGATED, 0.0)))
        chosen = np.flatnonzero(gaps > gate) if gate else np.arange(len(pairs))
        if len(chosen) == 0 or foretold[chosen[-1]] * left <= SHARE * len(chosen):
            break
    return [replace(pairs[n], strangers=float(pairs[n].strangers * left)) for n in chosen.tolist()]


def nearest_of_each(scores: Array, who: NDArray[np.int64]) -> Array:
    """Of scores (m, n) against rows of the people ``who`` (n,), numbered from 0, the best of each person's (m, people):
    the near-identical versions of somebody hide nobody from one another then."""
    order = np.argsort(who, kind="stable")
    firsts = np.searchsorted(who[order], np.arange(int(who.max()) + 1))
    return np.asarray(np.maximum.reduceat(scores[:, order], firsts, axis=1), np.float64)


def _nearness(model: VerdictModel, rows: Array, who: NDArray[np.int64], part: slice | NDArray[np.int64]) -> Array:
    """−log(1 − cosine) of the rows ``part`` and all rows (b, n), where a twin does not run into the end at 1; nobody
    is near themselves."""
    scores = model.score(rows[part], rows, who[part][:, None] == who[None, :])
    return np.asarray(-np.log(1 - np.clip(np.where(np.isfinite(scores), scores, -1.0), -1.0, 1 - 1e-9)), np.float64)


def _usual_gap(top: Array) -> float:
    """A usual gap between strangers, of the four or more nearest of each (n, 4…). For an exponential tail the gap from
    the first to the second has twice the mean of that from the second to the third (Rényi 1953), whose median no twin
    moves, and thrice that from the third to the fourth, which triplets leave alone if nearly everybody is one."""
    second, third = (number * float(np.median(top[:, number - 1] - top[:, number])) / math.log(2) for number in (2, 3))
    usual = second if 0 < second <= TRIPLETS * third else third
    return usual or max(second, third)


def learn_unspoilt(
    matrix: ArrayLike, repeats: Sequence[Repeats] = (), *, people: ArrayLike, most: int = MOST
) -> VerdictModel:
    """As ``verdict.learn``, where some of the people (n,) may be there twice under two numbers: whoever surely is, is
    no stranger to themselves. Among more than ``most`` nobody is looked for. What no repeats teach is presumed
    (``verdict.presume``)."""
    rows, who = np.asarray(matrix, np.float64), np.unique(np.asarray(people), return_inverse=True)[1].reshape(-1)
    plain = learn(rows, people=who)
    if len(rows) <= most:
        who = _merged(who, _sure(plain, rows, who))
        if len(np.unique(who)) < LEAST_GALLERY:
            return plain
    model = learn(rows, repeats, people=who)
    return model if model.learned else presume(model, rows, who)


def _sure(model: VerdictModel, rows: Array, who: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs (i < j) of rows whose people are each other's nearest, with a wide gap to everybody else. Of three or more
    that are so together each is paired with the first, the least like it coming first."""
    by_person = np.argsort(who, kind="stable")
    numbers, firsts = np.unique(who[by_person], return_index=True)
    people, most = len(numbers), min(TOGETHER, len(numbers) - 2)
    nearest = np.zeros((people, most), np.int64)
    top = np.zeros((people, most + 1))
    start = 0
    while start < people:  # whole people at a time
        stop = max(start + 1, int(np.searchsorted(firsts, firsts[start] + BLOCK)))
        own = by_person[firsts[start] : firsts[stop] if stop < people else None]
        near = _nearness(model, rows, who, own)[:, by_person]
        near = np.maximum.reduceat(near, firsts, axis=1)
        near = np.maximum.reduceat(near, firsts[start:stop] - firsts[start], axis=0)
        order = np.argsort(-near, axis=1)[:, : most + 1]
        nearest[start:stop] = order[:, :most]
        top[start:stop] = np.take_along_axis(near, order, 1)
        start = stop
    merged = together(nearest, top, _usual_gap(top))
    found: list[tuple[int, int]] = []
    for group in np.unique(merged[np.bincount(merged, minlength=people)[merged] > 1]):
        first, *others = np.sort(by_person[firsts[merged == group]]).tolist()
        others.sort(key=lambda other: -float(((rows[first] - rows[other]) ** 2).sum()))
        found += [(first, other) for other in others]
    return found


def together(
    nearest: NDArray[np.int64], top: Array, usual: float, least: int = 2, wider: float = WIDER
) -> NDArray[np.int64]:
    """People (n,), those who are one numbered alike: of ``least`` or more, each has the others nearest, with a gap to
    everybody else of ``WIDE`` usual ones, or ``wider`` where there are three or more.

    Args:
        nearest: of each the nearest others (n, m), the best first. top: how near these and the next are (n, m + 1).
    """
    merged = np.arange(len(nearest))
    for size in range(least, nearest.shape[1] + 2):
        members = np.sort(np.column_stack([np.arange(len(nearest)), nearest[:, : size - 1]]), axis=1)
        apart = top[:, size - 2] - top[:, size - 1] > (WIDE if size == 2 else wider) * usual
        agreed = [(members[members[:, one]] == members).all(1) & apart[members[:, one]] for one in range(size)]
        for i in np.flatnonzero(np.all(agreed, axis=0)):
            merged[np.isin(merged, merged[members[i]])] = merged[i]
    return merged


def _merged(who: NDArray[np.int64], sure: list[tuple[int, int]]) -> NDArray[np.int64]:
    merged = who.copy()
    for i, j in sure:
        merged[merged == merged[j]] = merged[i]
    return merged
