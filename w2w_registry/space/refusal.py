"""Does a fingerprint draw somebody who refused? Likelihood ratios as for a verdict, held to a rarer false alarm.

The noise of training is presumed: of a training like the registered ones, and of one of another kind that is louder and
noisier. Where repeats of more than one kind taught it, what they taught is asked as well. A wrong assumption lets
somebody be missed, it raises no alarm: how near strangers come is counted on the registered with the same comparison.
A few hundred registered have not met the nearest of strangers, so their count is added to what strangers reached
elsewhere: log likelihood ratios are nats in any world (``REACHED``).

What is too likely to pass and not sure enough to refuse is held, for a person to look at (``HOLD``). Among fewer than
``LEAST_GALLERY`` people no density can be estimated, and cosines alone are compared (``few_chance``).

Of somebody erased only signs of projections are kept (``consent.references``), from which their fingerprint is
estimated. References of earlier releases are signs of what each view expects: there the product of query and person
comes from an estimated cosine and a kept length (``Kept``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space import spread, ways
from w2w_registry.space.ordinary import UNUSUAL
from w2w_registry.space.spread import Array, Training
from w2w_registry.space.verdict import (
    LEAST_GALLERY,
    PRESUMED_BANDWIDTH,
    PRESUMED_DIRECTIONS,
    Strangers,
    VerdictModel,
    View,
    learn,
    log_mean,
    log_mean_of_others,
    strangers,
)
from w2w_registry.space.ways import DISTURBED, PRESUMED, WAYS

ALARM: Final = 3e-4
"""Chance that one newcomer who is nobody of them is refused, held against up to ``AMONG`` who refused…"""
HOLD: Final = 5e-3
"""…and that one is held until somebody has looked."""
HOLD_MADE: Final = HOLD / UNUSUAL
"""The same of those whose weights no training of the space's kind leaves (``space.ordinary``), who are few: of somebody
whose model was disturbed outside the registry, strangers come as near."""
NEARER: Final = 8.0
"""So many standard deviations nearer than strangers somebody's disturbed model is presumed to come by its weights; a
log likelihood ratio of two unit Gaussians so far apart grows by this with every one of them."""
AMONG: Final = 100
"""So many refused likenesses the alarm is shared among; what more of them add to it is borne by newcomers, so that
nobody is protected less for others who refuse."""
CROWD: Final = 1000
"""So many registered people say how dense the population is and how near strangers come."""
SEARCHES: Final = 2000
"""So many searches what strangers reached elsewhere counts for, beside those of the registered for one another."""
REACHED: Final = (
    (-400.0, 1.0), (-60.0, 0.05), (-40.0, 0.025), (-20.0, 0.0088), (-10.0, 0.0043), (0.0, 0.0018), (5.0, 0.00115),
    (10.0, 0.00063), (15.0, 0.0004), (20.0, 0.00025), (25.0, 0.00013), (30.0, 0.00004), (40.0, 0.000004),
)  # fmt: skip
REACHED_LEARNED: Final = (
    (-400.0, 1.0), (-60.0, 0.112), (-40.0, 0.058), (-20.0, 0.0226), (-10.0, 0.0117), (0.0, 0.0056), (5.0, 0.004),
    (10.0, 0.0021), (15.0, 0.0014), (20.0, 0.00055), (25.0, 0.00025), (30.0, 0.0001), (35.0, 0.00004), (45.0, 0.000004),
)  # fmt: skip
REACHED_APART: Final = (
    (-400.0, 1.0), (-60.0, 0.61), (-40.0, 0.37), (-20.0, 0.13), (-10.0, 0.05), (0.0, 0.0085), (5.0, 0.0024),
    (10.0, 0.0006), (15.0, 0.0002), (20.0, 0.00008), (25.0, 0.00003), (30.0, 0.00001), (40.0, 0.000001),
)  # fmt: skip
"""Nats, and the share of strangers who reach them with one of ``AMONG``, without learned noise, with it, and by a way
that is asked apart: half of 9,216 people of the mini world, 1,000 of them registered (docs/door.md)."""
FEWER: Final = 1600.0
FEWEST: Final = 32.0
"""Among n people, of whom less is known, strangers reach up to ``FEWER`` / n nats more, but not over ``FEWEST``. By the
ways that are asked apart they reach ``FEWER_APART`` of that: so 10 to 300 registered refuse .0002 to .0003 of half of
9,216 people's strangers, as without those ways."""
FEWER_APART: Final = 0.25
FEW_CROWD: Final = 4
"""So many of the few say whether people lie about the base model's own answer."""


SPENT: Final = 0.2
"""The share of the alarm that is spent on the ways of training that are asked apart."""


@dataclass(frozen=True, eq=False)
class Kept:
    """One view of somebody who refused: the length of what is expected of them, and its cosines (q,) with queries."""

    length: float
    cosines: Array


@dataclass(frozen=True, eq=False)
class Nearer:
    """By their weights, in standard deviations of strangers (``standing_out``): how near queries come to those who
    refused (q, r), and those of the crowd to one another (n, n); NaN where that cannot be said."""

    refused: Array
    crowd: Array


def standing_out(cosines: ArrayLike, strangers: ArrayLike, error: ArrayLike = 0.0) -> Array:
    """How far cosines (q, r) stand out from the same queries' cosines with ``strangers`` (q, n), NaN where there is
    none, in standard deviations. Whoever is outside a space's fit comes nearer to everybody than its members do.

    ``error``: standard deviation of the cosines' own, where they are estimated.
    """
    known = np.asarray(strangers, np.float64)
    spread = np.sqrt(np.nanvar(known, axis=1, keepdims=True) + np.square(error))
    return np.asarray((np.asarray(cosines, np.float64) - np.nanmean(known, axis=1, keepdims=True)) / spread)


def refusal_model(gallery: ArrayLike, learned: VerdictModel | None = None) -> VerdictModel:
    """How to hold newcomers against people who refused, among others like ``gallery`` (n, D), one row a person.

    Raises:
        UsageError: fewer than ``LEAST_GALLERY`` people.
    """
    rows = np.asarray(gallery, np.float64)
    model = learn(rows)
    _, _, axes = np.linalg.svd(rows - model.centre, full_matrices=False)
    directions = axes[: min(PRESUMED_DIRECTIONS, len(rows) - 1, rows.shape[1])]
    total = np.atleast_2d(np.cov(((rows - model.centre) @ directions.T).T))
    nothing = np.zeros_like(total)
    model = replace(model, directions=directions, bandwidth=PRESUMED_BANDWIDTH, between=total, within=nothing)
    known: tuple[Training, ...] = ()
    if learned is not None and len(learned.trainings) > 1:  # one way alone says nothing of the others
        model = _narrowed(learned, len(directions))
        total, known = model.between + model.within, tuple(replace(t, amplitude=0.0) for t in model.trainings)
    presumed = ways.trainings(total, -(model.centre @ model.directions.T))
    within = model.within if known else presumed[0].within
    model = replace(model, within=within, between=spread.between(total, within), trainings=(*known, *presumed))
    return _with_strangers(replace(model, strangers=strangers(model, rows)), rows)


def _with_strangers(model: VerdictModel, rows: Array) -> VerdictModel:
    """The model, knowing how near registered people come to one another by the ways that are asked apart."""
    best: list[Array] = []
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // 250)):
        own = part[:, None] == np.arange(len(rows))
        comparison, everybody = Comparison(model, rows[part], rows, own), np.arange(len(rows))
        apart = [comparison.by_way(view, rows, everybody) for view in model.apart]
        best.append(np.stack([np.where(own, -np.inf, ratio).max(1) for ratio in apart]))
    reached = iter(np.sort(np.concatenate(best, axis=1)))
    return replace(
        model, trainings=tuple(t if t.apart is None else replace(t, apart=next(reached)) for t in model.trainings)
    )


def _narrowed(model: VerdictModel, width: int) -> VerdictModel:
    """The model on its first ``width`` directions."""

    def cut(square: Array) -> Array:
        return square[:width, :width]

    trainings = tuple(replace(t, offset=t.offset[:width], within=cut(t.within)) for t in model.trainings)
    return replace(
        model,
        directions=model.directions[:width],
        within=cut(model.within),
        between=cut(model.between),
        trainings=trainings,
        tail=None,  # what strangers reach was counted with Gaussians
    )


def chance(model: VerdictModel, ratio: ArrayLike, among: int = AMONG) -> Array:
    """Chance (…) that a newcomer who is nobody of ``among`` people reaches a log likelihood ratio with one of them."""
    nats, own = np.asarray(ratio, np.float64), model.strangers
    if not is_presumed(model):
        return own.false_alarm(nats, among)
    learned = any(training.count for training in model.trainings)
    return _chance(own.best, own, nats, REACHED_LEARNED if learned else REACHED, among, _more(own))


def _more(own: Strangers) -> float:
    """How much nearer strangers come than was counted elsewhere, in nats."""
    return min(FEWER / (own.size + 1), FEWEST)


def _chance(
    best: Array, own: Strangers, nats: Array, reached: Sequence[tuple[float, float]], among: int, more: float
) -> Array:
    """The same where the registered, of whom ``own`` tells, came as near to one another as ``best`` (m,) says, and
    strangers elsewhere ``more`` nats nearer than ``reached``."""
    table = np.array(reached)
    at = nats - more
    elsewhere = np.exp(np.interp(at, table[:, 0], np.log(table[:, 1])) - np.maximum(at - table[-1, 0], 0.0) / 4)
    beyond = (len(best) - np.searchsorted(best, nats, side="left")) / len(best)
    with np.errstate(divide="ignore"):
        here = -np.expm1(AMONG / max(own.size, 1) * np.log1p(-beyond))
        # Each pair of the registered was seen from both of its sides.
        searches = own.asked * own.size / 2 / AMONG
        p = (SEARCHES * elsewhere + searches * here) / (SEARCHES + searches)
        return np.asarray(-np.expm1(among / AMONG * np.log1p(-p)))


def few_model(width: int) -> VerdictModel:
    """How to compare fingerprints (D = ``width`` floats) among too few people to learn from: their cosines."""
    nothing = np.zeros((0, 0))
    return VerdictModel(np.zeros(width), np.zeros((0, width)), nothing, nothing, 1.0, ())


def is_few(model: VerdictModel) -> bool:
    """Whether it compares cosines alone."""
    return not len(model.directions)


def is_presumed(model: VerdictModel) -> bool:
    """Whether its nats are those of ``REACHED``; those of models that an earlier release kept are not."""
    return any(training.name == PRESUMED for training in model.trainings)


def is_current(model: VerdictModel) -> bool:
    """Whether it asks all of ``WAYS``, as models that an earlier release kept do not."""
    return {way.name for way in WAYS} <= {training.name for training in model.trainings}


def few_chance(cosines: ArrayLike, crowd: ArrayLike = (), among: int = AMONG) -> Array:
    """Chance (…) that a newcomer who is nobody of ``among`` people reaches a cosine of fingerprints with one of them.

    People of the mini world lie as in seven dimensions (nearer than that from a chance of 1e-4 on, which misses none),
    about what the base model draws of nobody in particular. Where another world has them all on one side of it, the
    median cosine of the ``crowd`` (n, D) says how far. Never sure enough to refuse but for the very same model.
    """
    c = np.asarray(cosines, np.float64)
    rows = _unit(np.atleast_2d(np.asarray(crowd, np.float64))) if len(np.asarray(crowd)) >= FEW_CROWD else None
    side = 0.0 if rows is None else max(0.0, float(np.median((rows @ rows.T)[np.triu_indices(len(rows), 1)])))
    x = np.clip((c - side) / max(1 - side, 1e-6), -1.0, 1.0)
    beyond = 0.5 - 15 / 16 * (x - 2 * x**3 / 3 + x**5 / 5)
    chance_of_one = np.maximum(-np.expm1(among * np.log1p(-np.clip(beyond, 0.0, 1 - 1e-12))), 2 * ALARM)
    return np.where(c >= 1 - ALARM, 0.0, chance_of_one)


class Comparison:
    """Fingerprints (q, D) about to be held against people who refused, in a population of ``crowd`` (n, D), which
    may have those people among it.

    ``own`` (q, n) bool: crowd members that are the query itself. ``among``: how many refused.
    """

    def __init__(
        self,
        model: VerdictModel,
        queries: ArrayLike,
        crowd: ArrayLike,
        own: NDArray[np.bool_] | None = None,
        among: int = AMONG,
    ) -> None:
        self.model, self.queries, self.crowd = model, np.asarray(queries, np.float64), crowd
        self.points, self.among, self._own = model.project(self.queries), max(1, min(among, AMONG)), own

    @cached_property
    def asked(self) -> tuple[Array, ...]:
        """The queries as each view sees them (q, d)."""
        return (self.queries,) if is_few(self.model) else tuple(view.asked(self.points) for view in self.model.views)

    def with_known(self, refused: ArrayLike, theirs: ArrayLike | None = None) -> Array:
        """Chance of a false alarm (q, r) for people whose fingerprints (r, D) are there.

        ``theirs`` (r,): the crowd's member who is each of them, −1 where none is.
        """
        rows = np.asarray(refused, np.float64)
        if is_few(self.model):
            return self._few(_unit(self.queries) @ _unit(rows).T)
        places = np.full(len(rows), -1) if theirs is None else np.asarray(theirs, np.int64)
        ratio, *apart = self.ratios(rows, places)
        return self._alarms(ratio, apart)

    def with_made(self, refused: ArrayLike, theirs: NDArray[np.int64], nearer: Nearer | None = None) -> Array:
        """As ``with_known``, of what may be somebody's model disturbed: chance (q, r) that a stranger comes as near, as
        often as the registered do; by a model of an earlier release, which cannot say, 1.

        ``nearer``: how near they come by their weights, which is added where it is known (log likelihood ratios).
        """
        rows = np.asarray(refused, np.float64)
        if is_few(self.model):
            return self._few(_unit(self.queries) @ _unit(rows).T)
        found = np.ones((len(self.queries), len(rows)))
        for view in self.model.apart:
            if view.training.name != DISTURBED:
                continue
            assert view.training.apart is not None
            nats = self.by_way(view, rows, theirs)
            best, size = view.training.apart, max(self.model.strangers.size, 1)
            beyond = (len(best) - np.searchsorted(best, nats, side="left")) / len(best)
            with np.errstate(divide="ignore"):
                found = np.asarray(-np.expm1(self.among / size * np.log1p(-beyond)))
            if nearer is not None and np.isfinite(nearer.refused).any():
                levels, chances = self._crowd_reaches(view, nearer.crowd)
                both = chances[np.searchsorted(levels, nats + NEARER * nearer.refused)]
                found = np.where(np.isfinite(nearer.refused), both, found)
        return found

    def _crowd_reaches(self, view: View, nearer: Array) -> tuple[Array, Array]:
        """Scores (m,), ascending, and the chances (m + 1,) that a stranger reaches those from the n-th on with one of
        those who refused, as often as one of the crowd does, whose weights can be compared (n, n).

        Of somebody whose k-th nearest of n others scores s, one of ``among`` drawn from those scores at least s with a
        probability of 1 − (1 − k/n)^among. One more person than was seen is taken to come nearer than anybody.
        """
        rows, own = np.asarray(self.crowd, np.float64), np.eye(len(nearer), dtype=bool)
        there = np.isfinite(nearer).any(axis=1)
        nats = Comparison(self.model, rows[there], rows, own[there]).by_way(view, rows, np.arange(len(rows)))
        both = (nats + NEARER * nearer[there])[:, there][~np.eye(int(there.sum()), dtype=bool)]
        size = int(there.sum()) - 1
        drawn = 1 - (1 - np.arange(size + 1) / size) ** self.among
        each = np.broadcast_to(np.diff(drawn), (size + 1, size))[:, ::-1]
        scores = np.sort(np.nan_to_num(both, nan=-np.inf).reshape(size + 1, size), axis=1)
        order = np.argsort(scores, axis=None)
        above = np.concatenate([np.cumsum(each.ravel()[order][::-1])[::-1], [0.0]])
        return scores.ravel()[order], (above + drawn[1]) / (size + 2)

    def with_kept(self, kept: Sequence[Kept], theirs: int = -1) -> Array:
        """Chance of a false alarm (q,) for somebody of whom each view is kept; ``theirs`` as in ``with_known``."""
        if is_few(self.model):
            return self._few(kept[0].cosines)
        same = []
        for view, asked, one in zip(self.model.views, self.asked, kept, strict=True):
            aa = (asked**2).sum(1)
            same.append(view.likelihood(aa, np.sqrt(aa) * one.length * one.cosines, np.full(len(aa), one.length**2)))
        ratio = self._mixed([row[:, None] for row in same]) - _of(self._densities, np.array([theirs]))
        return chance(self.model, ratio, self.among)[:, 0]

    def ratios(self, refused: ArrayLike, theirs: NDArray[np.int64]) -> list[Array]:
        """Log likelihood ratios (q, r): by all ways of training together, and by each that is asked apart."""
        known = self.model.project(refused)
        found = [self._mixed([v.same(self.points, known) for v in self.model.views]) - _of(self._densities, theirs)]
        return [*found, *(self.by_way(view, refused, theirs) for view in _trained(self.model))]

    def by_way(self, view: View, refused: ArrayLike, theirs: NDArray[np.int64]) -> Array:
        """Log likelihood ratios (q, r) by one way that is asked apart."""
        both = self._density((*self.model.views, view))
        return view.same(self.points, self.model.project(refused)) - _of(both, theirs)

    def _few(self, cosines: Array) -> Array:
        return few_chance(cosines, self.crowd, self.among)

    def _alarms(self, ratio: Array, apart: Sequence[Array]) -> Array:
        if not apart:
            return chance(self.model, ratio, self.among)
        found = chance(self.model, ratio, self.among) / (1 - SPENT)
        for view, nats in zip(_trained(self.model), apart, strict=True):
            assert view.training.apart is not None
            own = self.model.strangers
            by = _chance(view.training.apart, own, nats, REACHED_APART, self.among, FEWER_APART * _more(own))
            found = np.minimum(found, by * len(apart) / SPENT)
        return np.minimum(found, 1.0)

    @staticmethod
    def _mixed(densities: Sequence[Array]) -> Array:
        """log density, whichever way of training it is."""
        return np.asarray(np.logaddexp.reduce(list(densities), axis=0) - np.log(len(densities)))

    @cached_property
    def _densities(self) -> tuple[Array, Array]:
        return self._density(self.model.views)

    def _density(self, views: Sequence[View]) -> tuple[Array, Array]:
        """log density of everybody at the queries, (q,), and of everybody but each of the crowd, (q, n): plain Gaussian
        where the crowd is too small to say."""
        crowd = self.model.project(self.crowd) if len(np.asarray(self.crowd)) else np.zeros((0, self.points.shape[1]))
        few = len(crowd) <= LEAST_GALLERY
        centres, width = (np.zeros((1, self.points.shape[1])), 1.0) if few else (crowd, self.model.bandwidth)
        kernels = self._mixed([view.kernel(self.points, centres, width) for view in views])
        if few:
            everybody = log_mean(kernels)
            return everybody, np.repeat(everybody[:, None], len(crowd), axis=1)
        kernels = kernels if self._own is None else np.where(self._own, -np.inf, kernels)
        return log_mean(kernels), log_mean_of_others(kernels)


def _trained(model: VerdictModel) -> list[View]:
    """The ways asked apart that a training may have gone."""
    return [view for view in model.apart if view.training.name != DISTURBED]


def _of(densities: tuple[Array, Array], theirs: NDArray[np.int64]) -> Array:
    """log density (q, r) of everybody but each of these (r,) of the crowd; −1: of everybody."""
    everybody, others = densities
    return np.where(theirs < 0, everybody[:, None], others[:, theirs] if others.size else 0.0)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30))
