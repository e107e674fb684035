"""Who is there twice, by coordinates alone, when nobody says how often a person is there.

Trainings of one person differ more in some directions of the space than people do, and only repeats tell which. Two
things are known without any. What training leaves at random in one layer it leaves differently in the next, while a
person is the same in all of them: so layers count by how well their likenesses agree with those of all the others. By
these a person's twin is nearly always the nearest, and gaps too wide for strangers say about how many have one. The
surest pairs then teach how trainings differ (two-covariance PLDA: Brümmer and de Villiers 2010), and everybody is
compared once more, never by a model that was taught by the pair in question, which would find whatever it was told.
Scores of pairs fall into two heaps, twins and strangers; the better scores make more pairs sure, for a few rounds.
Where too few pairs are sure to learn from, only they are named. Three or more who are one person, as the epochs of a
training are, would hide each other: they are found first, and count as one from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space.people import TOGETHER, nearest_of_each, together

MOST: Final = 2048
"""So many are all compared with one another, several times over."""
LEAST: Final = 40
COMPONENTS: Final = 40
"""Of the likenesses' principal directions, the first: more than a few dozen pairs can teach the noise of."""
ALIKE_SPREAD: Final = 4.0
"""Directions so many places apart, in the order of people's spread, are about equally noisy."""
WIDE: Final = 3.0
"""A gap so many times wider than strangers' usually are makes a pair sure…"""
SURE: Final = 1
"""…and more than so many, beyond those expected of strangers, say that anybody is there twice."""
ENOUGH: Final = 3
"""So many pairs teach at least."""
WIDER: Final = 5.0
"""Three or more are one person where the gap to everybody else is so wide: whoever comes near one of two twins comes
near the other too."""
HALF: Final = 2.0
"""Of twins who are among a few hundred people, ``SEEN`` have a gap as wide as this."""
SEEN: Final = 0.87
FALSE: Final = 0.1
"""Where too few are sure: so large a share of those named may be expected to be strangers."""
SHARE: Final = 0.05
"""Once the noise was learned: the share of strangers among those named, as the two heaps of scores have it…"""
OVERSURE: Final = 1.6
"""…of whom there are so many times as many: people who look alike lie in the wrong heap (measured on 72 folders of
270 people: 64 where 45 were foretold)."""
FEWER: Final = 15.0
"""Where fewer seem to be there twice…"""
SHARE_OF_FEW: Final = 0.03
"""…no more than this share may be strangers…"""
ALIKE: Final = 0.5
"""…and somebody is named, so many pairs of people who look alike are among them besides, in a folder of ``FOLDER``
people (measured on 48 folders where 5 or 10 are there twice: 20 where 6.4 were foretold)."""
FOLDER: Final = 270
TAUGHT: Final = 0.9
"""Of as many pairs as there seem to be, so large a share teaches: the best."""
FREE: Final = 1.5
"""Scores may say that there are so many times more pairs, or fewer, than gaps did."""
BROKEN: Final = 3.0
"""Where the upper heap holds so many times more, it took in strangers."""
ROUNDS: Final = 4
FOLDS: Final = 5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Twin:
    """Rows i < j that are one person; ``score``: more is surer, ``alarm``: the share of people whose second nearest, a
    stranger, scores as well, as far as so many can tell: never less than one in their number."""

    i: int
    j: int
    score: float
    alarm: float


@dataclass(frozen=True)
class Twins:
    """Pairs that are one person, those of three or more first, the surest of each first; and how many of them are to
    be expected to be ``strangers``."""

    pairs: tuple[Twin, ...]
    strangers: float


@dataclass(frozen=True, eq=False)
class _Nearest:
    """Rows whose people are each other's nearest: ``pairs`` (m, 2), best first, with their ``score`` (m,) and the
    ``gap`` (m,) to the next nearest of either, in units of a usual gap between strangers; ``second`` (n,): of every
    person."""

    pairs: NDArray[np.int64]
    score: Array
    gap: Array
    second: Array

    def ordered(self, by: Array) -> _Nearest:
        best = np.argsort(-by, kind="stable")
        return _Nearest(self.pairs[best], self.score[best], self.gap[best], self.second)


def pairs_by_weights(
    coordinates: ArrayLike, people: ArrayLike, parts: Sequence[NDArray[np.floating]] | None = None
) -> Twins:
    """Pairs of rows of coordinates (n, k), ``LEAST`` to ``MOST`` of them, that are one person though ``people`` (n,)
    calls them two. ``parts``: components (d, k) of each part of a model; None: it has one."""
    who = np.unique(np.asarray(people), return_inverse=True)[1].reshape(-1)
    rows = np.asarray(coordinates, np.float32)
    rows = rows - rows.mean(0)
    likeness, normal = _half_whitened(rows, who) if parts is None else _by_parts(rows, parts, who)
    of_one, who = _sets(normal, who)
    found = _two_by_two(likeness, normal, who)
    return Twins((*of_one, *found.pairs), found.strangers)


def _sets(scores: Array, who: NDArray[np.int64]) -> tuple[list[Twin], NDArray[np.int64]]:
    """Three or more who are one person: a pair of each with the first, and the people (n,) with each set as one."""
    apart = np.where(who[:, None] == who[None, :], -np.inf, scores)
    people = nearest_of_each(nearest_of_each(apart, who).T, who).T
    most = min(TOGETHER, len(people) - 2)
    order = np.argsort(-people, axis=1, kind="stable")[:, : most + 1]
    top = np.take_along_axis(people, order, 1)
    merged = together(order[:, :most], top, _usual_gap(top), least=3, wider=WIDER)
    alone = np.bincount(merged, minlength=len(merged))[merged] == 1
    pairs = []
    for one, first in enumerate(merged.tolist()):
        if one != first:
            i, j = _best_of(apart, who == first, who == one)
            alarm = (float((top[alone, 1] >= apart[i, j]).sum()) + 1) / (int(alone.sum()) + 1)
            pairs.append(Twin(min(i, j), max(i, j), float(apart[i, j]), alarm))
    return sorted(pairs, key=lambda pair: -pair.score), np.unique(merged[who], return_inverse=True)[1].reshape(-1)


def _two_by_two(likeness: Array, normal: Array, who: NDArray[np.int64]) -> Twins:
    near = _nearest(normal, who)
    sure = near.gap > WIDE
    if sure.sum() - _expected(near, sure, WIDE) <= SURE:
        return _widest(near)
    seen = float((near.gap > HALF).sum()) / SEEN
    there = max(seen - _expected(near, near.gap > HALF, HALF), float(ENOUGH))
    first = {frozenset(who[pair].tolist()) for pair in near.pairs}
    learned, chance = _learned(_principal(likeness), near.ordered(_gumbel(near) + near.gap), there, who)
    if chance.sum() > BROKEN * there:
        return _widest(near)
    few = there < FEWER
    also = np.array([frozenset(who[pair].tolist()) in first for pair in learned.pairs])
    likely = np.flatnonzero(also & (chance > 0.5))
    best = likely[np.argsort(-chance[likely], kind="stable")]
    doubt = np.cumsum(1 - chance[best])
    within = np.flatnonzero(doubt <= (SHARE_OF_FEW if few else SHARE) * np.arange(1, len(best) + 1))
    named = best[: int(within[-1]) + 1 if len(within) else 0]
    chosen = np.isin(np.arange(len(chance)), named)
    foretold = OVERSURE * float((1 - chance[named]).sum())
    return _found(learned, chosen, foretold + (_alike(learned, chosen) if few else 0.0))


def _widest(near: _Nearest) -> Twins:
    """Pairs by the width of their gap alone."""
    for wide in np.arange(WIDE, 5.1, 0.5):
        sure = near.gap > wide
        if _expected(near, sure, wide) <= FALSE * sure.sum():
            return _found(near, sure, _expected(near, sure, wide) + _alike(near, sure))
    return Twins((), 0.0)


def _alike(near: _Nearest, chosen: NDArray[np.bool_]) -> float:
    """How many who look alike are to be expected among the ``chosen``, where few are there twice."""
    return ALIKE * len(near.second) / FOLDER if chosen.any() else 0.0


def _learned(rows: Array, near: _Nearest, there: float, who: NDArray[np.int64]) -> tuple[_Nearest, Array]:
    """Pairs by what the best of ``near`` teach, in a few rounds, and the chance that each is one person. ``there``:
    about how many are."""
    rng = np.random.default_rng(0)
    count, chance = there, np.zeros(0)
    for _ in range(ROUNDS):
        taught = near.pairs[: max(ENOUGH, round(TAUGHT * count))]
        near = _nearest(_compared_fairly(rows, taught, rng.integers(0, FOLDS, int(who.max()) + 1), who), who)
        chance = _two_heaps(near.score, there)
        count = float(chance.sum())
    return near, chance


def _two_heaps(scores: Array, there: float) -> Array:
    """The chance (m,) that each score lies in the upper of two normal heaps, which holds about ``there`` of them
    (expectation and maximisation; a score beyond a heap's middle on its own side is no less of it)."""
    upper = np.zeros(len(scores))
    upper[: max(ENOUGH, round(there))] = 1
    for _ in range(300):
        share = min(float(np.clip(upper.sum(), there / FREE, there * FREE)) / len(scores), 0.98)
        heaps = []
        for own, part, side in ((upper, share, np.minimum), (1 - upper, 1 - share, np.maximum)):
            mean = float((own * scores).sum() / max(own.sum(), 1e-9))
            spread = np.sqrt(float((own * (scores - mean) ** 2).sum() / max(own.sum(), 1e-9)) + 0.25)
            heaps.append(np.log(part / spread) - ((side(scores, mean) - mean) / spread) ** 2 / 2)
        before, upper = upper, 1 / (1 + np.exp(np.clip(heaps[1] - heaps[0], -50, 50)))
        if np.abs(upper - before).max(initial=0) < 1e-6:
            break
    return np.asarray(upper, np.float64)


def _gumbel(near: _Nearest) -> Array:
    """How far scores lie above where strangers' best lie, in units of the spread of a largest of many (of the law of
    the second largest the quartiles are 2.69 and .96, the median 1.68, in the exponential's argument)."""
    low, middle, high = np.quantile(near.second, (0.25, 0.5, 0.75))
    unit = max(float(high - low) / np.log(2.6926 / 0.9613), 1e-30)
    return np.asarray((near.score - (middle + unit * np.log(1.6783))) / unit, np.float64)


def _expected(near: _Nearest, chosen: NDArray[np.bool_], wide: float) -> float:
    """How many pairs of strangers, each the other's nearest, have gaps so wide among those who are not ``chosen``:
    measured where nobody is there twice (200 of the mini world: 4 wider than 2, 1.2 wider than 3)."""
    return (len(near.second) / 2 - float(chosen.sum())) * float(np.exp(-1.5 * wide))


def _found(near: _Nearest, chosen: NDArray[np.bool_], strangers: float) -> Twins:
    # One more on either side, so that what none of n was seen to do is not called impossible (Phipson, Smyth 2010).
    alarms = [(float((near.second >= score).sum()) + 1) / (len(near.second) + 1) for score in near.score]
    found = (
        Twin(min(i, j), max(i, j), score, alarm)
        for (i, j), score, alarm, yes in zip(near.pairs.tolist(), near.score.tolist(), alarms, chosen, strict=True)
        if yes
    )
    return Twins(tuple(sorted(found, key=lambda pair: -pair.score)), strangers)


def _half_whitened(rows: NDArray[np.float32], who: NDArray[np.int64]) -> tuple[Array, Array]:
    """Cosines (n, n) of half-whitened rows, and the same ``_normalised``."""
    spread = rows.std(0)
    kept = spread > 1e-6 * spread.max()
    cosines = _cosines(rows[:, kept] / np.sqrt(spread[kept]))
    return cosines, _normalised(cosines, who)


def _by_parts(
    rows: NDArray[np.float32], parts: Sequence[NDArray[np.floating]], who: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Cosines (n, n) of the parts of models, plain and ``_normalised``, weighed by how well a part's agree with all
    the others'."""
    apart = who[:, None] < who[None, :]

    def each() -> Iterator[tuple[Array, Array]]:
        for part in parts:
            cosines = _cosines(rows @ np.asarray(part, np.float32).T)
            yield cosines, _normalised(cosines, who)

    everything = np.zeros((len(rows), len(rows)))
    for _, normal in each():
        everything += normal
    likeness, normals, weights = np.zeros_like(everything), np.zeros_like(everything), 0.0
    for cosines, normal in each():  # once more, rather than kept: hundreds of layers of thousands squared
        weight = _correlation(normal[apart], everything[apart] - normal[apart])
        likeness += weight * cosines
        normals += weight * normal
        weights += weight
    return likeness / max(weights, 1e-30), _normalised(normals, who)


def _correlation(one: Array, other: Array) -> float:
    one, other = one - one.mean(), other - other.mean()
    return max(float(one @ other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-30), 0.0)


def _cosines(rows: NDArray[np.float32]) -> Array:
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    return np.asarray(units @ units.T, np.float64)


def _normalised(scores: Array, who: NDArray[np.int64]) -> Array:
    """Scores (n, n), each against the mean and the spread of its two rows' with other people."""
    others = np.where(who[:, None] == who[None, :], np.nan, scores)
    spread = np.nanstd(others, 1, keepdims=True)
    normal = (scores - np.nanmean(others, 1, keepdims=True)) / np.maximum(spread, 1e-30)
    return np.asarray((normal + normal.T) / 2, np.float64)


def _principal(likeness: Array) -> Array:
    """Rows (n, ``COMPONENTS`` or fewer) whose products are the likenesses, centred."""
    centred = likeness - likeness.mean(0) - likeness.mean(1, keepdims=True) + likeness.mean()
    values, vectors = np.linalg.eigh(centred)
    kept = values[-COMPONENTS:] > 1e-9 * max(float(values[-1]), 1e-30)
    return np.asarray((vectors[:, -COMPONENTS:] * np.sqrt(np.maximum(values[-COMPONENTS:], 0)))[:, kept], np.float64)


def _nearest(scores: Array, who: NDArray[np.int64]) -> _Nearest:
    scores = np.where(who[:, None] == who[None, :], -np.inf, scores)
    people = nearest_of_each(nearest_of_each(scores, who).T, who).T
    top = -np.sort(np.partition(-people, 2, axis=1)[:, :3], axis=1)
    nearest = people.argmax(1)
    one = np.flatnonzero((nearest[nearest] == np.arange(len(people))) & (np.arange(len(people)) < nearest))
    other = nearest[one]
    score = people[one, other]
    gap = (score - np.maximum(top[one, 1], top[other, 1])) / _usual_gap(top)
    best = np.argsort(-score, kind="stable")
    rows = [_best_of(scores, who == a, who == b) for a, b in zip(one[best], other[best], strict=True)]
    return _Nearest(np.array(rows, np.int64).reshape(-1, 2), score[best], gap[best], top[:, 1])


def _usual_gap(top: Array) -> float:
    """A usual gap between strangers, of the three nearest of each (n, 3…). Of an exponential tail the first gap has
    twice the mean of the second (Rényi 1953), whose median no twin moves. It is no smaller than that of the largest of
    n normal scores: where most people are there many times, the gaps between their copies say nothing of strangers."""
    measured = 2 * float(np.median(top[:, 1] - top[:, 2])) / float(np.log(2))
    return max(measured, 1 / float(np.sqrt(2 * np.log(max(len(top), 2)))))


def _best_of(scores: Array, ones: NDArray[np.bool_], others: NDArray[np.bool_]) -> tuple[int, int]:
    """The rows of two people that are most alike."""
    a, b = np.flatnonzero(ones), np.flatnonzero(others)
    i, j = np.unravel_index(scores[np.ix_(a, b)].argmax(), (len(a), len(b)))
    return int(a[i]), int(b[j])


def _compared_fairly(rows: Array, pairs: NDArray[np.int64], fold: NDArray[np.int64], who: NDArray[np.int64]) -> Array:
    """Scores (n, n), each by models that no pair with either of its people has taught. ``fold`` (people,): who are
    scored together; a pair always are."""
    fold[who[pairs[:, 1]]] = fold[who[pairs[:, 0]]]
    fold = fold[who]
    scores = np.empty((len(rows), len(rows)))
    for part in range(FOLDS):
        apart = pairs[fold[pairs[:, 0]] != part]
        mine = fold == part
        scores[mine] = _ratios(rows, rows[apart[:, 0]] - rows[apart[:, 1]], mine)
    return (scores + scores.T) / 2


def _ratios(rows: Array, differences: Array, mine: NDArray[np.bool_]) -> Array:
    """Log-likelihood ratios (up to a constant) that rows ``mine`` and all rows are of one person.

    With W the covariance of a training, learned from ``differences`` (m, k) of repeats, and T that of all rows: after
    whitening by W a row is N(0, 1 + b) in each direction of T, and two of one person share b.
    """
    values, vectors = np.linalg.eigh(_noise(rows, differences))
    white = rows @ (vectors / np.sqrt(values))
    spread, directions = np.linalg.eigh(white.T @ white / max(len(rows) - 1, 1))
    white = white @ directions
    between = np.maximum(spread - 1, 0)
    total = between + 1
    joint = total**2 - between**2
    own = (white**2) @ (0.5 / total - 0.5 * total / joint)
    found = (white[mine] * (between / joint)) @ white.T + own[mine][:, None] + own[None, :]
    return np.asarray(found, np.float64)


def _noise(rows: Array, differences: Array) -> Array:
    """The covariance (k, k) of a training, of principal ``rows`` (n, k): that of ``differences`` of repeats plus as
    much again of what directions of about the same spread have, each by itself. A few dozen pairs teach how noise
    depends on spread; all alike, as the mean of all, would be too much of it where people differ most, and too little
    in between. With no repeats, half of everybody's."""
    if not len(differences):
        return np.diag(np.maximum(rows.var(0) / 2, 1e-30))
    within = differences.T @ differences / (2 * len(differences))
    places = np.arange(len(within))
    nearby = np.exp(-(((places[:, None] - places) / ALIKE_SPREAD) ** 2) / 2)
    smooth = nearby @ np.diag(within) / nearby.sum(1)
    return np.asarray(within + np.diag(np.maximum(smooth, 1e-30)), np.float64)
