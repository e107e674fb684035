"""Directions: which way in a weight space an attribute lies, how far one unit of it is, and how clean it is.

A direction has two faces, and mixing them up is the usual mistake (Haufe et al., NeuroImage 2014):

- the **reader** ``r`` (k,) *measures*: ``reading(c) = r·c + intercept`` is the attribute of a point.  It is fitted on
  labels by ridge regression (the paper's least squares, §3.3, with its pseudo-inverse regularised) or logistically.
- the **vector** ``v`` (k,) *moves*.  Adding the reader itself, as least squares on raw coordinates suggests, spends
  most of its length on components that hardly vary between identities and leaves the space's distribution.  With
  ``Σ`` the covariance of the coordinates, the move that changes the reading by ``t`` at the least Mahalanobis
  distance is ``t Σr / (rᵀΣr)``; under a Gaussian it is also how coordinates change on average with the attribute.

Several attributes at once, or one moved while others are kept, is the same problem with more readings:
``min δᵀΣ⁻¹δ`` subject to ``Rᵀδ = t`` gives ``δ = ΣR (RᵀΣR)⁻¹ t`` (``solve_edit``).  De-biasing is that with zeros for
the attributes to be left alone: the paper's "subtract the projection", taken in the metric of the space.

Everything here is numpy on float64; coordinates are (n, k), one row an identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError

Array = NDArray[np.float64]
Method = Literal["least-squares", "logistic"]
METHODS: Final[tuple[Method, ...]] = ("least-squares", "logistic")

RIDGES: Final[Array] = np.logspace(-6, 2, 25)
"""Candidates for the ridge penalty, as a share of the largest squared singular value."""
PRIORS: Final = (0.0, 0.5, 1.0)
MIN_LABELS: Final = 8
MIN_CLASS: Final = 4


@dataclass(frozen=True)
class Quality:
    """How well the reading predicts labels it never saw: cross-validated, penalty chosen inside each fold."""

    measure: Literal["auroc", "r2"]
    value: float
    folds: int
    n: int

    def to_json(self) -> dict[str, Any]:
        return {"measure": self.measure, "value": self.value, "folds": self.folds, "n": self.n}


@dataclass(frozen=True, eq=False)
class Direction:
    """An attribute in one weight space.

    Attributes:
        vector: unit vector (k,) to move along.
        reader, intercept: the reading of a point is ``reader·c + intercept``.
        unit: coordinate length along ``vector`` that changes the reading by one standard deviation of the readings of
            the identities it was fitted on.
        spread: that standard deviation, in units of the reading (labels, or log-odds for logistic).
        levels: mean reading of "no" and "yes" for a yes/no attribute, 5% and 95% quantiles of the readings otherwise.
        leakage: for a step of one unit, how far the readings of other attributes go, in their own spreads.
        kept: attributes this direction was de-biased against.
    """

    attribute: str
    method: str
    vector: Array
    reader: Array
    intercept: float
    unit: float
    spread: float
    levels: tuple[float, float]
    quality: Quality
    binary: bool
    ridge: float
    leakage: Mapping[str, float] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def read(self, coordinates: ArrayLike) -> Array:
        """Readings of points: (k,) → (), (n, k) → (n,)."""
        return np.asarray(coordinates, np.float64) @ self.reader + self.intercept

    def step(self, amount: float) -> Array:
        """The move (k,) of ``amount`` units (standard deviations of the attribute)."""
        return self.vector * (self.unit * amount)

    def to_json(self) -> dict[str, Any]:
        """Everything but the two arrays, which are stored as arrays."""
        return {
            "attribute": self.attribute,
            "method": self.method,
            "intercept": self.intercept,
            "unit": self.unit,
            "spread": self.spread,
            "levels": list(self.levels),
            "quality": self.quality.to_json(),
            "binary": self.binary,
            "ridge": self.ridge,
            "leakage": dict(self.leakage),
            "kept": list(self.kept),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], vector: ArrayLike, reader: ArrayLike) -> Direction:
        quality = data["quality"]
        return cls(
            attribute=data["attribute"],
            method=data["method"],
            vector=np.asarray(vector, np.float64),
            reader=np.asarray(reader, np.float64),
            intercept=float(data["intercept"]),
            unit=float(data["unit"]),
            spread=float(data["spread"]),
            levels=(float(data["levels"][0]), float(data["levels"][1])),
            quality=Quality(quality["measure"], float(quality["value"]), int(quality["folds"]), int(quality["n"])),
            binary=bool(data["binary"]),
            ridge=float(data["ridge"]),
            leakage={str(k): float(v) for k, v in data["leakage"].items()},
            kept=tuple(data["kept"]),
        )


# -- fitting -----------------------------------------------------------------------------------------
def fit_direction(
    attribute: str,
    coordinates: ArrayLike,
    values: ArrayLike,
    component_std: ArrayLike,
    *,
    method: Method = "least-squares",
    folds: int = 5,
    seed: int = 0,
) -> Direction:
    """Fit one attribute on labelled identities, with its quality on identities each fit has not seen.

    Args:
        coordinates: (n, k). values: (n,) labels; NaN where unknown. Labels 0/1 only make a yes/no attribute.
        component_std: (k,) standard deviation of each coordinate in the space: Σ is its square, diagonal.

    Raises:
        UsageError: too few labels, a constant attribute, or a logistic fit of something that is not yes/no.
    """
    found = fit_reader(attribute, coordinates, values, component_std, method=method)
    points, labels = _known(coordinates, values)
    scale = positive_std(component_std)
    white = points / scale
    order = _fold_of(labels, folds, seed, found.binary)
    predictions = np.empty_like(labels)
    for fold in range(folds):
        held = order == fold
        weights, bias, _ = _fit(white[~held], labels[~held], scale, method)
        predictions[held] = white[held] @ weights + bias
    quality = (
        Quality("auroc", auroc(labels, predictions), folds, len(labels))
        if found.binary
        else Quality("r2", r_squared(labels, predictions), folds, len(labels))
    )
    return replace(found, quality=quality)


def fit_reader(
    attribute: str,
    coordinates: ArrayLike,
    values: ArrayLike,
    component_std: ArrayLike,
    *,
    method: Method = "least-squares",
) -> Direction:
    """As ``fit_direction`` without the cross-validation: the quality is that on the identities fitted (``folds`` 0)."""
    if method not in METHODS:
        raise UsageError(reason=f"unknown method {method!r}", hint="one of: " + ", ".join(METHODS))
    points, labels = _known(coordinates, values)
    scale = positive_std(component_std)
    binary = _check_labels(attribute, labels, method)
    weights, bias, ridge = _fit(points / scale, labels, scale, method)
    reader = weights / scale
    readings = points @ reader + bias
    spread = float(readings.std())
    if not spread > 1e-9 * float(labels.std()):
        raise UsageError(reason=f"the coordinates say nothing about {attribute!r}", hint="label more identities")
    quality = (
        Quality("auroc", auroc(labels, readings), 0, len(labels))
        if binary
        else Quality("r2", r_squared(labels, readings), 0, len(labels))
    )
    if binary:
        levels = (float(readings[labels < 0.5].mean()), float(readings[labels > 0.5].mean()))
    else:
        low, high = np.quantile(readings, (0.05, 0.95))
        levels = (float(low), float(high))
    return _calibrated(
        Direction(
            attribute=attribute,
            method=method,
            vector=scale**2 * reader,
            reader=reader,
            intercept=float(bias),
            unit=1.0,
            spread=spread,
            levels=levels,
            quality=quality,
            binary=binary,
            ridge=ridge,
        )
    )


def with_leakage(direction: Direction, others: Sequence[Direction]) -> Direction:
    """``direction`` with its leakage on ``others`` measured: change of their readings, in their spreads, per unit."""
    step = direction.step(1.0)
    found = {o.attribute: float(o.reader @ step) / o.spread for o in others if o.attribute != direction.attribute}
    return replace(direction, leakage=found)


def debias(direction: Direction, against: Sequence[Direction], component_std: ArrayLike) -> Direction:
    """``direction`` moved so that the readings of ``against`` stay where they are.

    Raises:
        UsageError: the attribute cannot be told from the ones to be kept.
    """
    others = [o for o in against if o.attribute != direction.attribute]
    step = solve_edit([(direction, 1.0)], others, component_std)
    kept = tuple(dict.fromkeys((*direction.kept, *(o.attribute for o in others))))
    return with_leakage(_calibrated(replace(direction, vector=step, kept=kept)), others)


def compose(name: str, parts: Sequence[tuple[Direction, float]], component_std: ArrayLike) -> Direction:
    """One direction that does several things at once, each in its own proportion (in units of each part).

    Its reading is the sum of the parts' readings in units of their spreads, weighted alike; its quality is that of the
    weakest part.
    """
    if not parts:
        raise UsageError(reason="nothing to compose")
    step = solve_edit(parts, (), component_std)
    reader = np.sum([d.reader * (w / d.spread) for d, w in parts], axis=0)
    intercept = float(sum(d.intercept * w / d.spread for d, w in parts))
    scale = positive_std(component_std)
    spread = float(np.linalg.norm(scale * reader))
    if not spread > 0:
        raise UsageError(reason="the parts cancel each other")
    ends = [sum((d.levels[i if w > 0 else 1 - i]) * w / d.spread for d, w in parts) for i in (0, 1)]
    weakest = min((d.quality for d, _ in parts), key=lambda q: q.value)
    first = parts[0][0]
    return _calibrated(
        Direction(
            attribute=name,
            method="composed",
            vector=step,
            reader=reader,
            intercept=intercept,
            unit=1.0,
            spread=spread,
            levels=(float(ends[0]), float(ends[1])),
            quality=weakest,
            binary=False,
            ridge=first.ridge,
        )
    )


def _calibrated(direction: Direction) -> Direction:
    """Unit vector, and the length along it that moves the reading by one spread."""
    norm = float(np.linalg.norm(direction.vector))
    slope = float(direction.reader @ direction.vector) / norm if norm > 0 else 0.0
    if not abs(slope) > 1e-12 * float(np.linalg.norm(direction.reader)):
        raise UsageError(reason=f"nothing is left of {direction.attribute!r} once the kept attributes are removed")
    # A kept attribute may turn the move around; forward always means "more".
    sign = 1.0 if slope > 0 else -1.0
    return replace(direction, vector=sign * direction.vector / norm, unit=direction.spread / abs(slope))


# -- editing -----------------------------------------------------------------------------------------
def solve_edit(
    targets: Sequence[tuple[Direction, float]], keep: Sequence[Direction], component_std: ArrayLike
) -> Array:
    """The most typical move (k,) that changes each target by its amount (in units) and the kept ones not at all.

    Targets move along their own vectors (so a de-biased direction stays de-biased) plus whatever the kept readings
    need to stay put; for plain directions this is ``ΣR (RᵀΣR)⁻¹ t``.

    Raises:
        UsageError: two of the attributes are the same thing in this space.
    """
    if not targets:
        raise UsageError(reason="an edit needs at least one direction")
    names = [d.attribute for d, _ in targets] + [d.attribute for d in keep]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UsageError(reason=f"{', '.join(twice)} named twice in one edit")
    scale = positive_std(component_std)
    readers = np.stack([d.reader for d, _ in targets] + [d.reader for d in keep], axis=1)
    moves = np.stack([d.vector for d, _ in targets] + [scale**2 * d.reader for d in keep], axis=1)
    wanted = np.array([amount * d.spread for d, amount in targets] + [0.0] * len(keep))
    # Condition is judged on readings in their own units, so that labels of different size do not matter.
    spreads = np.array([d.spread for d, _ in targets] + [d.spread for d in keep])
    moves = moves / np.linalg.norm(moves / scale[:, None], axis=0)
    system = (readers / spreads).T @ moves
    if np.linalg.cond(system) > 1e6:
        raise UsageError(reason=f"{', '.join(names)} cannot be told apart in this space", hint="keep fewer attributes")
    return np.asarray(moves @ np.linalg.solve(system, wanted / spreads))


def amount_for(direction: Direction, coordinates: ArrayLike, reading: float) -> float:
    """How many units take a point (k,) to ``reading``."""
    return (reading - float(direction.read(coordinates))) / direction.spread


def target_reading(direction: Direction, on: bool, margin: float = 0.0) -> float:
    """The reading that means "yes" (``on``) or "no": the mean of that side, ``margin`` of the way further out."""
    low, high = direction.levels
    return high + margin * (high - low) if on else low - margin * (high - low)


# -- measures ----------------------------------------------------------------------------------------
def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counted half."""
    positive = np.asarray(labels, np.float64) > 0.5
    values = np.asarray(scores, np.float64)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        raise UsageError(reason="AUROC needs both classes")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2.0) / (n_pos * n_neg))


def r_squared(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of the labels' variance that the predictions explain (negative when worse than the mean)."""
    truth, guess = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    total = float(((truth - truth.mean()) ** 2).sum())
    if not total > 0:
        raise UsageError(reason="R² needs labels that vary")
    return 1.0 - float(((truth - guess) ** 2).sum()) / total


def positive_std(component_std: ArrayLike) -> Array:
    """Component standard deviations as float64, floored so that dividing by them is safe."""
    scale = np.abs(np.asarray(component_std, np.float64))
    return np.maximum(scale, 1e-6 * float(scale.max(initial=0.0)) + 1e-30)


def _known(coordinates: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    labels = np.asarray(values, np.float64)
    known = np.isfinite(labels)
    return np.asarray(coordinates, np.float64)[known], labels[known]


# -- the fits ----------------------------------------------------------------------------------------
def _check_labels(attribute: str, labels: Array, method: str) -> bool:
    if len(labels) < MIN_LABELS:
        raise UsageError(
            reason=f"{len(labels)} identities have a label {attribute!r}; at least {MIN_LABELS} are needed"
        )
    binary = bool(np.isin(labels, (0.0, 1.0)).all())
    if binary:
        fewest = int(min(labels.sum(), len(labels) - labels.sum()))
        if fewest < MIN_CLASS:
            raise UsageError(
                reason=f"{attribute!r} has only {fewest} identities on one side; at least {MIN_CLASS} are needed"
            )
    elif not float(labels.std()) > 0:
        raise UsageError(reason=f"{attribute!r} is the same for every labelled identity")
    if method == "logistic" and not binary:
        raise UsageError(reason=f"{attribute!r} is not yes/no", hint="use --method least-squares")
    return binary


def _fold_of(labels: Array, folds: int, seed: int, binary: bool) -> NDArray[np.intp]:
    """The fold of every row: seeded, and stratified for yes/no labels so that no fold lacks a side."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), np.intp)
    groups = (labels > 0.5, labels <= 0.5) if binary else (np.ones(len(labels), bool),)
    start = 0
    for group in groups:
        rows = rng.permutation(np.flatnonzero(group))
        fold[rows] = (np.arange(len(rows)) + start) % folds
        start += len(rows)
    return fold


def _fit(white: Array, labels: Array, scale: Array, method: str) -> tuple[Array, float, float]:
    """Weights (k,), bias and the penalty used, in whitened coordinates.

    The prior on the weights is a Gaussian whose width follows a power of the component's own spread: flat (0) when an
    attribute may sit in any component, steep (1) when it sits in the leading ones.  Power and penalty are chosen by
    the leave-one-out error, in closed form.
    """
    centre, middle = white.mean(0), float(labels.mean())
    centred, residual = white - centre, labels - middle
    best: tuple[float, float, Array, Array, Array] | None = None
    for power in PRIORS:
        prior = (scale / scale.max()) ** power
        u, s, vt = _svd(centred * prior)
        ridge, error = _choose_ridge(u, s, residual)
        if best is None or error < best[0]:
            best = (error, ridge, u * s, s, prior[:, None] * vt.T)
    assert best is not None
    _, penalty, design, s, back = best
    weights: Array
    if method == "least-squares":
        weights = back @ (design.T @ residual / (s**2 + penalty))
        return weights, middle - float(centre @ weights), penalty / len(labels)
    # The logistic loss curves at most 1/4 as much as squared error, so the same prior takes a quarter of the penalty.
    inner, bias = _logistic(design, labels, 0.25 * penalty)
    weights = back @ inner
    return weights, bias - float(centre @ weights), penalty / len(labels)


def _svd(rows: Array) -> tuple[Array, Array, Array]:
    """Thin SVD without the directions in which nothing varies (by eigenvectors of the smaller Gram matrix)."""
    n, k = rows.shape
    values, vectors = np.linalg.eigh(rows.T @ rows if k <= n else rows @ rows.T)
    keep = values > 1e-10 * max(float(values[-1]), 1e-300)
    s, vectors = np.sqrt(values[keep]), vectors[:, keep]
    if k <= n:
        return rows @ vectors / s, s, vectors.T
    return vectors, s, (rows.T @ vectors / s).T


def _choose_ridge(u: Array, s: Array, residual: Array) -> tuple[float, float]:
    """Penalty with the least leave-one-out error, and that error (the hat matrix shares ``u`` for every penalty)."""
    projected, squared, power = u.T @ residual, u**2, float((s**2).max(initial=1e-300))
    best = (0.0, np.inf)
    for penalty in power * RIDGES:
        shrink = s**2 / (s**2 + penalty)
        leverage = squared @ shrink + 1.0 / len(residual)
        error = float((((residual - u @ (shrink * projected)) / np.maximum(1.0 - leverage, 1e-9)) ** 2).mean())
        if error < best[1]:
            best = (float(penalty), error)
    return best


def _logistic(design: Array, labels: Array, penalty: float, steps: int = 50) -> tuple[Array, float]:
    """Penalised logistic regression by damped Newton steps (intercept free); design is (n, p)."""
    n, p = design.shape
    full = np.concatenate([design, np.ones((n, 1))], axis=1)
    ridge = np.full(p + 1, penalty)
    ridge[-1] = 1e-9
    beta = np.zeros(p + 1)
    loss = _logistic_loss(full, labels, beta, ridge)
    for _ in range(steps):
        chance = 1.0 / (1.0 + np.exp(-np.clip(full @ beta, -30, 30)))
        gradient = full.T @ (chance - labels) + ridge * beta
        hessian = (full * (chance * (1.0 - chance))[:, None]).T @ full + np.diag(ridge)
        direction = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6:
            proposal = beta - size * direction
            after = _logistic_loss(full, labels, proposal, ridge)
            if after <= loss:
                break
            size /= 2.0
        else:
            break
        done = loss - after < 1e-10 * max(1.0, abs(loss))
        beta, loss = proposal, after
        if done:
            break
    return beta[:-1], float(beta[-1])


def _logistic_loss(full: Array, labels: Array, beta: Array, ridge: Array) -> float:
    score = full @ beta
    return float(np.logaddexp(0.0, score).sum() - labels @ score + 0.5 * (ridge * beta**2).sum())
