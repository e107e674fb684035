"""Who is there twice, by coordinates alone, when nobody says how often a person is there.

Trainings of one person differ more in some directions of the space than people do, and only repeats tell which. So the
surest pairs are found first: each is the other's nearest, and the gap to the next is too wide for strangers. They teach
how trainings differ (two-covariance PLDA: Brümmer and de Villiers 2010), and everybody is compared once more, never by
a model that was taught by the pair in question, which would find whatever it was told. With the better scores more
pairs are sure, and so on, for a few rounds. Where too few pairs are sure to learn from, only they are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space.people import nearest_of_each

MOST: Final = 2048
"""So many are all compared with one another, several times over."""
LEAST: Final = 40
COMPONENTS: Final = 120
"""Of the coordinates, the first: more than a few dozen pairs can teach the noise of."""
WIDE: Final = 3.0
"""A gap so many times wider than strangers' usually are makes a pair sure."""
FALSE: Final = 0.1
"""So large a share of the sure pairs may be expected to be strangers for the rest to be learned from them."""
RANK: Final = 0.98
"""Once the noise was learned: a pair must score better than so many people's second nearest, who are strangers."""
HIGH: Final = 0.3
"""Of the pairs of strangers with a wide gap about so many score that well."""
ROUNDS: Final = 6
FIRST, LAST = 0.25, 0.6
"""Shares of the mutually nearest pairs that teach, in the first round and in the last."""
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
    """Pairs that are one person, the surest first, and how many of them are to be expected to be ``strangers``."""

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


def pairs_by_weights(coordinates: ArrayLike, people: ArrayLike) -> Twins:
    """Pairs of rows of coordinates (n, k), ``LEAST`` to ``MOST`` of them, that are one person though ``people`` (n,)
    calls them two."""
    who = np.unique(np.asarray(people), return_inverse=True)[1].reshape(-1)
    rows = np.asarray(coordinates, np.float64)
    rows = rows - rows.mean(0)
    near = _nearest(_normalised(rows), who)
    for wide in np.arange(WIDE, 5.1, 0.5):
        sure = near.gap > wide
        if _expected(near, sure, wide) <= FALSE * sure.sum():
            break
    else:
        return Twins((), 0.0)
    if wide > WIDE:
        return _found(near, sure, _expected(near, sure, wide))
    rows = rows[:, :COMPONENTS]
    rng = np.random.default_rng(0)
    for share in np.linspace(FIRST, LAST, ROUNDS):
        taught = near.pairs[: max(8, int(share * len(near.pairs)))]
        near = _nearest(_compared_fairly(rows, taught, rng.integers(0, FOLDS, int(who.max()) + 1), who), who)
    high = near.score >= np.quantile(near.second, RANK)
    for wide in np.arange(1.0, WIDE + 0.01, 0.25):
        chosen = high & (near.gap > wide)
        strangers = HIGH * _expected(near, chosen, wide)
        if strangers <= FALSE * chosen.sum():
            break
    return _found(near, chosen, strangers)


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


def _normalised(rows: Array) -> Array:
    """Cosines (n, n) of half-whitened rows, each against the mean and the spread of its two rows' cosines."""
    spread = rows.std(0)
    units = rows[:, spread > 1e-9 * spread.max()] / np.sqrt(spread[spread > 1e-9 * spread.max()])
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-30)
    cosines = units @ units.T
    np.fill_diagonal(cosines, np.nan)
    spread = np.nanstd(cosines, 1, keepdims=True)
    normal = (cosines - np.nanmean(cosines, 1, keepdims=True)) / np.maximum(spread, 1e-30)
    return np.asarray((normal + normal.T) / 2, np.float64)


def _nearest(scores: Array, who: NDArray[np.int64]) -> _Nearest:
    scores = np.where(who[:, None] == who[None, :], -np.inf, scores)
    people = nearest_of_each(nearest_of_each(scores, who).T, who).T
    top = -np.sort(np.partition(-people, 2, axis=1)[:, :3], axis=1)
    nearest = people.argmax(1)
    one = np.flatnonzero((nearest[nearest] == np.arange(len(people))) & (np.arange(len(people)) < nearest))
    other = nearest[one]
    # Of an exponential tail the first gap has twice the mean of the second (Rényi 1953), whose median no twin moves.
    usual = 2 * float(np.median(top[:, 1] - top[:, 2])) / np.log(2)
    score = people[one, other]
    gap = (score - np.maximum(top[one, 1], top[other, 1])) / max(usual, 1e-30)
    best = np.argsort(-score, kind="stable")
    rows = [_best_of(scores, who == a, who == b) for a, b in zip(one[best], other[best], strict=True)]
    return _Nearest(np.array(rows, np.int64).reshape(-1, 2), score[best], gap[best], top[:, 1])


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

    With W the covariance of a training, learned from ``differences`` (m, k) of repeats and shrunk by as much as it has
    on average, and T that of all rows: after whitening by W a row is N(0, 1 + b) in each direction of T, and two of one
    person share b.
    """
    within = differences.T @ differences / (2 * max(len(differences), 1))
    size = float(np.trace(within)) / len(within)
    values, vectors = np.linalg.eigh(within + max(size, 1e-30) * np.eye(len(within)))
    white = rows @ (vectors / np.sqrt(values))
    spread, directions = np.linalg.eigh(white.T @ white / max(len(rows) - 1, 1))
    white = white @ directions
    between = np.maximum(spread - 1, 0)
    total = between + 1
    joint = total**2 - between**2
    own = (white**2) @ (0.5 / total - 0.5 * total / joint)
    found = (white[mine] * (between / joint)) @ white.T + own[mine][:, None] + own[None, :]
    return np.asarray(found, np.float64)
