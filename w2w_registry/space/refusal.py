"""Does a fingerprint draw somebody who refused? Likelihood ratios as for a verdict, held to a rarer false alarm.

The noise of training comes from repeats where some were learned from. What was not learned is assumed: a training like
the registered ones with white noise, and one of another kind that is louder and noisier. A wrong assumption lets
somebody be missed, it raises no alarm: how near strangers come is counted on the registered with the same comparison.

Of somebody erased only signs of projections are kept (``consent.references``), so each view's product of query and
person comes from an estimated cosine and a kept length; with 4,096 signs that costs nothing to speak of
(docs/door.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space import spread
from w2w_registry.space.spread import Array, Training
from w2w_registry.space.verdict import LEAST_GALLERY, VerdictModel, learn, log_mean, strangers

ALARM: Final = 6e-4
"""Chance that one newcomer who is nobody of them is refused, held against up to ``AMONG`` who refused."""
AMONG: Final = 100
"""So many refused likenesses the alarm is shared among; what more of them add to it is borne by newcomers, so that
nobody is protected less for others who refuse."""
CROWD: Final = 1000
"""So many registered people say how dense the population is and how near strangers come."""
DIRECTIONS: Final = 64
PER_DIRECTION: Final = 4
"""So many registered people for every direction compared: in more, the few lie farther apart than strangers would."""
LEARNED_FROM: Final = 800
"""So many registered people before learned noise is used: among 300 it refused two strangers in a thousand."""
WHITE: Final = 0.015
"""Assumed noise of one training, as a share of people's variance: the mini world's retrained show .015."""
LOUDER, NOISIER, STRAYING = 1.1, 3.0, 0.1
"""Assumed gain, noise (of the registered way's, and as much again in every direction) and amplitude of another way of
training."""


@dataclass(frozen=True, eq=False)
class Kept:
    """One view of somebody who refused: the length of what is expected of them, and its cosines (q,) with queries."""

    length: float
    cosines: Array


def refusal_model(gallery: ArrayLike, learned: VerdictModel | None = None) -> VerdictModel:
    """How to hold newcomers against people who refused, among others like ``gallery`` (n, D), one row a person.

    Raises:
        UsageError: fewer than ``LEAST_GALLERY`` people.
    """
    rows = np.asarray(gallery, np.float64)
    width = min(DIRECTIONS, max(4, len(rows) // PER_DIRECTION))
    few = learned is None or not learned.trainings or len(rows) < LEARNED_FROM
    model = _assumed(rows, width) if learned is None or few else _narrowed(learned, width)
    native = model.trainings[0]
    width = len(native.within)
    mean = np.trace(native.within) / width
    noises = [NOISIER * native.within + mean * np.eye(width)]
    if native.count:  # the noise of few repeats is too little to go by, for what was trained another way
        variance = float(np.trace(model.between + model.within))
        noises.append((NOISIER + 1) * WHITE * variance / min(width, DIRECTIONS) * np.eye(width))
    others = [Training("assumed", 0, LOUDER, np.zeros(width), noise, STRAYING) for noise in noises]
    model = replace(model, trainings=(*model.trainings, *others))
    return replace(model, strangers=strangers(model, rows))


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
    )


def _assumed(rows: Array, width: int) -> VerdictModel:
    plain = learn(rows)
    _, _, axes = np.linalg.svd(rows - plain.centre, full_matrices=False)
    directions = axes[: min(DIRECTIONS, width, rows.shape[1])]
    points = (rows - plain.centre) @ directions.T
    total = np.atleast_2d(np.cov(points.T))
    within = WHITE * np.trace(total) / len(total) * np.eye(len(total))
    native = Training("assumed", 0, 1.0, np.zeros(len(total)), within, STRAYING)
    return replace(
        plain,
        directions=directions,
        within=within,
        between=spread.between(total, within),
        bandwidth=0.8,
        trainings=(native,),
    )


class Comparison:
    """Fingerprints (q, D) about to be held against people who refused, in a population of ``crowd`` (n, D).

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
        self.model, self.points, self.among = model, model.project(queries), max(1, min(among, AMONG))
        others = model.project(crowd) if len(np.asarray(crowd)) else np.zeros((0, len(model.directions)))
        self._everybody = self._density(others, own)

    @cached_property
    def asked(self) -> tuple[Array, ...]:
        """The queries as each view sees them (q, d)."""
        return tuple(view.asked(self.points) for view in self.model.views)

    def with_known(self, refused: ArrayLike) -> Array:
        """Chance of a false alarm (q, r) for people whose fingerprints (r, D) are there."""
        known = self.model.project(refused)
        return self._alarms([view.same(self.points, known) for view in self.model.views])

    def with_kept(self, kept: Sequence[Kept]) -> Array:
        """Chance of a false alarm (q,) for somebody of whom each view is kept."""
        same = []
        for view, asked, one in zip(self.model.views, self.asked, kept, strict=True):
            aa = (asked**2).sum(1)
            same.append(view.likelihood(aa, np.sqrt(aa) * one.length * one.cosines, np.full(len(aa), one.length**2)))
        return self._alarms([row[:, None] for row in same])[:, 0]

    def _alarms(self, same: Sequence[Array]) -> Array:
        ratio = np.logaddexp.reduce(list(same), axis=0) - np.log(len(same)) - self._everybody[:, None]
        return self.model.strangers.false_alarm(ratio, self.among)

    def _density(self, crowd: Array, own: NDArray[np.bool_] | None) -> Array:
        """log density of everybody at the queries, (q,): plain Gaussian where the crowd is too small to say."""
        few = len(crowd) <= LEAST_GALLERY
        centres, width = (np.zeros((1, self.points.shape[1])), 1.0) if few else (crowd, self.model.bandwidth)
        kernels = np.logaddexp.reduce([view.kernel(self.points, centres, width) for view in self.model.views], axis=0)
        kernels = kernels - np.log(len(self.model.views))
        return log_mean(kernels if own is None or few else np.where(own, -np.inf, kernels))


def expected(model: VerdictModel, fingerprint: ArrayLike) -> list[Array]:
    """What each view expects (d,) of the person of a fingerprint (D,): what references are made of."""
    point = model.project(fingerprint)
    return [view.expected(point)[0] for view in model.views]
