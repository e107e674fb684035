"""Is this the same person, among N: likelihood ratios of fingerprints, and how often a stranger would reach one.

A fingerprint scores against a registered one by log p(q | the same person) − log p(q | somebody else). The first is a
Gaussian whose noise was learned from repeats, for each way of training that repeats showed; the way is not asked but
summed over. The second is the population's density where q lies, a kernel estimate on everybody but the candidate:
people are no Gaussian cloud (they wear glasses or not), and a query from a crowded place needs better evidence. Among
9,216 people that is worth more than any refinement of the noise (docs/metric.md).

How often a stranger reaches a score among N is learned by searching for registered people in a gallery that has lost
them, and extrapolated to other sizes and rarer events by extreme-value statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import lgamma
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space import spread, ways
from w2w_registry.space.spread import Array, Training

Word = Literal["same", "likely", "no"]

DIRECTIONS: Final = 128
PLAIN_DIRECTIONS: Final = 30
"""How many directions are compared by a model learned from repeats, and by plain cosine without any."""
PRESUMED_DIRECTIONS: Final = 48
PRESUMED_BANDWIDTH: Final = 0.8
"""The same, and the population's kernels, where noise is presumed."""
ENOUGH_PEOPLE: Final = 100
"""So many people say how they differ well enough for presumed noise to accept more than plain cosine does."""
FEW_REPEATS: Final = 16
"""Fewer repeats than this teach no noise worth the name: plain cosine it is."""
SAME: Final = 0.01
LIKELY: Final = 0.20
"""The chance of a false alarm in one search up to which a match is called same, or likely."""
LEAST_GALLERY: Final = 20
BANDWIDTHS: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TAIL: Final = 100.0
"""Degrees of freedom of Student's t, by which one person's trainings now and then stray far beyond the noise that
repeats taught: chosen on either half of people alike, for the other (docs/metric.md)."""
STRANGERS: Final = 1500
CROWD: Final = 4096
DENSITY: Final = 16_384
"""Registered people searched for to learn how near strangers come; learned from; kernels of the people's density."""
LEVELS: Final = 400
PART: Final = 65_536
"""Registered fingerprints compared at once."""
_TAIL: Final = 0.05
_TAIL_LEAST: Final = 15


@dataclass(frozen=True, eq=False)
class Repeats:
    """Second trainings of registered people: ``queries`` (m, D) and the gallery's ``rows`` (m,) they belong to."""

    name: str
    queries: ArrayLike
    rows: ArrayLike


@dataclass(frozen=True, eq=False)
class Strangers:
    """Best scores of people who were not there, sorted (m,), in a gallery of ``size``; ``asked``: of how many people
    the scores are (more than m where a table of levels stands for them)."""

    best: Array
    size: int
    asked: int

    def false_alarm(self, score: ArrayLike, size: int) -> Array:
        """Chance that a stranger's best match among ``size`` scores at least ``score``, (…).

        Below the tail it is counted; in it, excesses decay exponentially, which is the Gumbel case of the law of
        maxima. The tail is the top twentieth, or fifteen scores where that is more; its mean is taken for one
        standard error longer than it looks, because a few dozen strangers have rarely met the worst. Among
        another number of people, F^(size/N): every candidate is a chance of its own.
        """
        s, m = np.asarray(score, np.float64), len(self.best)
        share = min(max(_TAIL, _TAIL_LEAST / self.asked), 0.5)
        beyond = (m - np.searchsorted(self.best, s, side="left")) / m
        level = float(np.quantile(self.best, 1 - share))
        excess = self.best[self.best > level] - level
        mean = max(float(excess.mean()) if len(excess) else 0.0, 1e-9) * (1 + 1 / np.sqrt(share * self.asked))
        tail = share * np.exp(-np.maximum(s - level, 0.0) / mean)
        p = np.clip(np.where(s > level, tail, beyond), 0.0, 1.0)
        with np.errstate(divide="ignore"):
            return np.asarray(-np.expm1(size / max(self.size, 1) * np.log1p(-p)))


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What a search concluded: per candidate ``word`` and ``false_alarm`` (n,), and ``gap`` of the best to the next."""

    word: tuple[Word, ...]
    false_alarm: Array
    gap: float | None


@dataclass(frozen=True, eq=False)
class VerdictModel:
    """How to compare fingerprints (D floats) of one base model.

    ``centre`` (D,) and ``directions`` (d, D): the registered's mean and principal directions. ``within`` (d, d) and
    ``between`` (d, d): covariances of one person's trainings as registered, and of people. ``bandwidth``: of the
    population's kernels, a share of ``between``. ``trainings``: the ways of training known, from repeats or presumed
    (``presume``); none: plain cosine. ``tail``: how far those may stray (``TAIL``); None: as a Gaussian does.
    """

    centre: Array
    directions: Array
    within: Array
    between: Array
    bandwidth: float
    trainings: tuple[Training, ...]
    strangers: Strangers = field(default_factory=lambda: Strangers(np.zeros(1), 1, 1))
    tail: float | None = None

    @property
    def learned(self) -> bool:
        """Whether repeats taught it the noise of training."""
        return any(training.count for training in self.trainings)

    @property
    def in_nats(self) -> bool:
        """Whether scores are log likelihood ratios; else they are cosines."""
        return bool(self.trainings)

    def project(self, fingerprints: ArrayLike) -> Array:
        """Fingerprints (n, D) on the model's directions (n, d)."""
        return np.asarray((np.atleast_2d(np.asarray(fingerprints, np.float64)) - self.centre) @ self.directions.T)

    def score(self, queries: ArrayLike, gallery: ArrayLike, absent: ArrayLike | None = None) -> Array:
        """Scores (q, n) of ``queries`` (q, D) against ``gallery`` (n, D): nats, or plain cosines (``in_nats``).

        ``absent`` (q, n) bool: candidates that are to be taken for not registered; they score −inf.
        """
        return self.score_projected(self.project(queries), self.project(gallery), absent)

    def score_projected(self, queries: Array, gallery: NDArray[Any], absent: ArrayLike | None = None) -> Array:
        """As ``score``, of what ``project`` gave: (q, d) against (n, d), which is gone through in parts."""
        gone = np.zeros((len(queries), len(gallery)), bool) if absent is None else np.asarray(absent, bool)
        return np.where(gone, -np.inf, self._score(queries, gallery, gone))

    def judge(self, scores: ArrayLike, size: int) -> Verdicts:
        """What the scores (n,) of one search among ``size`` people say."""
        s = np.asarray(scores, np.float64)
        chance = self.strangers.false_alarm(s, size)
        words: list[Word] = ["same" if p <= SAME else "likely" if p <= LIKELY else "no" for p in chance]
        best = np.sort(s)[::-1]
        return Verdicts(tuple(words), chance, float(best[0] - best[1]) if len(best) > 1 else None)

    def _score(self, q: Array, g: NDArray[Any], gone: NDArray[np.bool_]) -> Array:
        parts = [np.asarray(g[start : start + PART], np.float64) for start in range(0, len(g), PART)]
        if not self.trainings:
            return np.concatenate([_unit(q) @ _unit(part).T for part in parts], axis=1)
        same = np.concatenate(
            [np.logaddexp.reduce([v.same(q, part) for v in self.views], axis=0) for part in parts], axis=1
        ) - np.log(len(self.views))
        # The crowd is a fixed sample of the gallery where that is large: a density needs no more.
        crowd = np.unique(np.linspace(0, len(g) - 1, min(len(g), DENSITY)).astype(int))
        kernels = np.logaddexp.reduce([v.kernel(q, g[crowd], self.bandwidth) for v in self.views], axis=0)
        kernels = np.where(gone[:, crowd], -np.inf, kernels - np.log(len(self.views)))
        everybody = log_mean(kernels)
        somebody_else = np.repeat(everybody[:, None], len(g), axis=1)
        somebody_else[:, crowd] = log_mean_of_others(kernels)
        return np.asarray(same - somebody_else)

    @cached_property
    def views(self) -> tuple[View, ...]:
        return tuple(View(self.between, self.within, one, self.tail) for one in self.trainings if one.apart is None)

    @cached_property
    def apart(self) -> tuple[View, ...]:
        """Ways of training that are asked each by itself."""
        return tuple(View(self.between, self.within, one, self.tail) for one in self.trainings if one.apart is not None)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays, for an npz or safetensors file; ``trainings`` are named by the keys."""
        arrays: dict[str, NDArray[Any]] = {
            "centre": self.centre,
            "directions": self.directions,
            "within": self.within,
            "between": self.between,
            "strangers": self.strangers.best,
            "numbers": np.array([self.bandwidth, self.strangers.size, self.strangers.asked, self.tail or 0.0]),
        }
        for number, training in enumerate(self.trainings):
            for key, value in training.to_arrays().items():
                arrays[f"training/{number}/{training.name}/{key}"] = value
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> VerdictModel:
        bandwidth, size, asked, *tail = (float(v) for v in arrays["numbers"])  # earlier releases kept no tail
        found: dict[tuple[int, str], dict[str, Any]] = {}
        for key, value in arrays.items():
            if key.startswith("training/"):
                _, number, rest = key.split("/", 2)
                name, _, part = rest.rpartition("/")
                found.setdefault((int(number), name), {})[part] = value
        trainings = tuple(Training.from_arrays(name, parts) for (_, name), parts in sorted(found.items()))
        centre, directions, within, between, best = (
            np.asarray(arrays[key], np.float64) for key in ("centre", "directions", "within", "between", "strangers")
        )
        reached, strays = Strangers(best, int(size), int(asked)), tail[0] if tail and tail[0] else None
        return cls(centre, directions, within, between, bandwidth, trainings, reached, strays)


class View:
    """One way of training, ready to be compared: whitened so that every density is a squared distance."""

    def __init__(self, between: Array, within: Array, training: Training, tail: float | None = None) -> None:
        self.training, self.between, self.tail = training, between, tail
        # E[y | x] = K x and what is left of y's uncertainty, (B⁻¹ + W⁻¹)⁻¹.
        self.posterior = np.linalg.solve(between + within, between)
        rest = between - between @ self.posterior
        self.root, self.level = _whitening(training.gained(rest) + training.within)

    def asked(self, q: Array) -> Array:
        """Queries (q, d), whitened."""
        return np.asarray((q - self.training.offset) @ self.root)

    def expected(self, g: Array) -> Array:
        """What is expected of the registered (n, d) when they are trained this way, whitened."""
        return np.asarray((self.training.gain * (g @ self.posterior)) @ self.root)

    def same(self, q: Array, g: Array) -> Array:
        """log p(q | person of g), (q, n)."""
        a, b = self.asked(q), self.expected(g)
        return self.likelihood((a**2).sum(1)[:, None], a @ b.T, (b**2).sum(1))

    def likelihood(self, aa: Array, ab: Array, bb: Array) -> Array:
        """log p(q | person) from the products of ``asked`` a and ``expected`` b."""
        distance = aa - 2 * ab + bb
        # The amplitude adds τ² x xᵀ to the covariance: Sherman and Morrison's formula keeps it one matrix product.
        stretch = 1 + self.training.amplitude**2 * bb
        distance -= self.training.amplitude**2 * (ab - bb) ** 2 / stretch
        level = self.level - 0.5 * np.log(stretch)
        if self.tail is None:
            return np.asarray(level - 0.5 * distance)
        # Student's t of the same covariance, against the Gaussian's constant.
        width, scale = len(self.root), self.tail - 2
        constant = lgamma((self.tail + width) / 2) - lgamma(self.tail / 2) - width / 2 * np.log(scale / 2)
        return np.asarray(level + constant - (self.tail + width) / 2 * np.log1p(np.maximum(distance, 0.0) / scale))

    def kernel(self, q: Array, g: Array, bandwidth: float) -> Array:
        """log density at q (q, n) of somebody somewhere near each of ``g``.

        Centres are drawn in by √(1 − h), so that the mixture has the population's covariance whatever h is
        (Silverman 1986, §6.4); h = 1 is the plain Gaussian.
        """
        root, level = _whitening(bandwidth * self.training.gained(self.between) + self.training.within)
        a = (q - self.training.offset) @ root
        b = (np.sqrt(1 - bandwidth) * self.training.gain * g) @ root
        return np.asarray(level - 0.5 * ((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)))


def learn(
    gallery: ArrayLike, repeats: Sequence[Repeats] = (), *, people: ArrayLike | None = None, seed: int = 0
) -> VerdictModel:
    """The model of ``gallery`` (n, D) fingerprints: with noise learned from ``repeats``, or plain cosine without.

    The first of ``repeats`` are trained as the registered are (so it has to have at least ``FEW_REPEATS``, or none is
    used); the others in ways of their own. ``people`` (n,) says which rows are one person: they are no strangers to
    each other, and one of them stands for all.

    Raises:
        UsageError: fewer than ``LEAST_GALLERY`` people.
    """
    rows = np.asarray(gallery, np.float64)
    who = np.arange(len(rows)) if people is None else np.unique(np.asarray(people), return_inverse=True)[1]
    first = np.unique(who, return_index=True)[1]
    if len(first) < LEAST_GALLERY:
        raise UsageError(reason=f"verdicts need at least {LEAST_GALLERY} people, there are {len(first)}")
    centre = rows[first].mean(0)
    enough = bool(repeats) and len(np.asarray(repeats[0].rows)) >= FEW_REPEATS
    wanted = DIRECTIONS if enough else PLAIN_DIRECTIONS
    _, _, axes = np.linalg.svd(_sample(rows[first] - centre, CROWD, seed), full_matrices=False)
    directions = axes[: min(wanted, len(first) - 1, rows.shape[1])]
    points = (rows - centre) @ directions.T
    total = np.atleast_2d(np.cov(points[first].T))
    trainings: list[Training] = []
    for given in repeats if enough else ():
        x, q = points[np.asarray(given.rows)], (np.asarray(given.queries, np.float64) - centre) @ directions.T
        if not trainings:
            trainings.append(spread.like_registered(q, x, total, given.name))
        elif len(x) >= FEW_REPEATS:
            trainings.append(spread.foreign(q, x, trainings[0], given.name))
    within = trainings[0].within if trainings else np.zeros_like(total)
    model = VerdictModel(centre, directions, within, spread.between(total, within), 1.0, tuple(trainings))
    if trainings:
        model = replace(model, bandwidth=_bandwidth(model, points[first], seed), tail=TAIL)
    return replace(model, strangers=strangers(model, rows, who, seed))


def presume(model: VerdictModel, gallery: ArrayLike, people: ArrayLike, seed: int = 0) -> VerdictModel:
    """The model of ``gallery`` (n, D), whose rows are these ``people`` (n,), with the noise of training presumed
    (``ways.TRAINED``) in place of plain cosine. As it is, where there are fewer than ``ENOUGH_PEOPLE``."""
    rows, who = np.asarray(gallery, np.float64), np.asarray(people)
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), CROWD)).astype(int))
    rows, who = rows[some], who[some]
    first = np.unique(who, return_index=True)[1]
    if len(first) < ENOUGH_PEOPLE:
        return model
    _, _, axes = np.linalg.svd(rows[first] - model.centre, full_matrices=False)
    directions = axes[: min(PRESUMED_DIRECTIONS, len(first) - 1, rows.shape[1])]
    total = np.atleast_2d(np.cov(((rows[first] - model.centre) @ directions.T).T))
    found = ways.trainings(total, -(model.centre @ directions.T), ways.TRAINED)
    together = tuple(replace(training, apart=None) for training in found)
    within = found[0].within
    between = spread.between(total, within)
    made = VerdictModel(model.centre, directions, within, between, PRESUMED_BANDWIDTH, together)
    return replace(made, strangers=strangers(made, rows, who, seed))


def strangers(model: VerdictModel, gallery: ArrayLike, people: ArrayLike | None = None, seed: int = 0) -> Strangers:
    """How near strangers come: registered people searched for in the gallery (n, D) without them."""
    rows = np.asarray(gallery, np.float64)
    who = np.arange(len(rows)) if people is None else np.asarray(people)
    first = np.unique(who, return_index=True)[1]
    asked = np.sort(np.random.default_rng(seed).permutation(first)[:STRANGERS])
    best = np.concatenate([
        model.score(rows[part], rows[first], who[part][:, None] == who[first][None, :]).max(1)
        for part in np.array_split(asked, max(1, len(asked) // 250))
    ])  # fmt: skip
    # A table of levels says as much as all of them; the top twentieth is one in the table too.
    low, high = np.sort(best[best <= (cut := np.quantile(best, 1 - _TAIL))]), np.sort(best[best > cut])
    if len(best) <= LEVELS:
        return Strangers(np.sort(best), len(first) - 1, len(best))
    each = len(best) / LEVELS
    kept = np.quantile(low, np.linspace(0, 1, max(1, round(len(low) / each))))
    top = np.quantile(high, np.linspace(0, 1, max(1, round(len(high) / each))))
    return Strangers(np.concatenate([kept, top]), len(first) - 1, len(best))


def _bandwidth(model: VerdictModel, points: Array, seed: int) -> float:
    """The kernels' width at which the crowd best foretells those of its own left out."""
    crowd = _sample(points, CROWD, seed)
    asked = np.random.default_rng(seed).permutation(len(crowd))[:500]
    view = View(model.between, model.within, model.trainings[0])
    best, chosen = -np.inf, 1.0
    for width in BANDWIDTHS:
        kernels = view.kernel(crowd[asked], crowd, width)
        kernels[np.arange(len(asked)), asked] = -np.inf
        fit = float(log_mean(kernels).mean())
        if fit > best:
            best, chosen = fit, width
    return chosen


def _whitening(covariance: Array) -> tuple[Array, float]:
    """R (d, d) with R Rᵀ = C⁻¹, and −½ log|C|."""
    root = np.linalg.cholesky(covariance)
    return np.linalg.inv(root).T, -float(np.log(np.diag(root)).sum())


def log_mean(values: Array) -> Array:
    """log of the mean of exp over the finite entries of each row."""
    top = values.max(1)
    count = np.maximum(np.isfinite(values).sum(1), 1)
    return np.asarray(top + np.log(np.exp(values - top[:, None]).sum(1)) - np.log(count))


def log_mean_of_others(values: Array) -> Array:
    """As ``log_mean``, for every entry over the others of its row."""
    order = np.arange(len(values))
    top = values.argmax(1)
    most = values[order, top][:, None]
    shares = np.exp(values - most)
    rest = np.maximum(shares.sum(1, keepdims=True) - shares, 0.0)
    # All but the largest by subtraction would be rounding error: that one is summed anew, on its own scale.
    without = values.copy()
    without[order, top] = -np.inf
    next_most = without.max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = most + np.log(np.maximum(rest, 1e-300))
        out[order, top] = next_most + np.log(np.exp(without - next_most[:, None]).sum(1))
    count = np.isfinite(values).sum(1, keepdims=True) - np.isfinite(values)
    return np.asarray(out - np.log(np.maximum(count, 1)))


def _sample(rows: Array, most: int, seed: int) -> Array:
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])]


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30))
