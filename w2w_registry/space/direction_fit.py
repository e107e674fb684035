"""Fitting a direction to labelled identities: ridge or logistic readers, and how well they predict unseen labels."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from w2w_registry.errors import MissingExtra, UsageError
from w2w_registry.space.directions import Array, Direction, Quality, calibrated, positive_std

Method = Literal["least-squares", "logistic"]


METHODS: Final[tuple[Method, ...]] = ("least-squares", "logistic")


RIDGES: Final[Array] = np.logspace(-6, 2, 25)
"""Candidates for the ridge penalty, as a share of the largest squared singular value."""


PRIORS: Final = (0.0, 0.5, 1.0)


MIN_LABELS: Final = 8


MIN_CLASS: Final = 4


DESIGNS: Final = 2
"""Decompositions kept for the next fit: of the people all attributes are known of, and one other choice of people."""


@dataclass
class Designs:
    """What fits on the same people share, whatever the attribute: the decompositions of their coordinates under each
    prior. With it a second attribute costs a look-up where it cost three decompositions."""

    _kept: OrderedDict[str, list[_Design]] = field(default_factory=OrderedDict)

    def of(self, white: Array, scale: Array) -> list[_Design]:
        """The designs of whitened coordinates (n, k), one for each of ``PRIORS``."""
        key = hashlib.sha256(white.tobytes() + scale.tobytes()).hexdigest()
        found = self._kept.pop(key, None) or list(_designs(white, scale))
        self._kept[key] = found
        while len(self._kept) > DESIGNS:
            self._kept.popitem(last=False)
        return found


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
    designs: Designs | None = None,
) -> Direction:
    """Fit one attribute on labelled identities, with its quality on identities each fit has not seen.

    Args:
        coordinates: (n, k). values: (n,) labels; NaN where unknown. Labels 0/1 only make a yes/no attribute.
        component_std: (k,) standard deviation of each coordinate in the space: Σ is its square, diagonal.
        designs: kept from one attribute of the same people to the next.

    Raises:
        UsageError: too few labels, a constant attribute, or a logistic fit of something that is not yes/no.
    """
    found = fit_reader(attribute, coordinates, values, component_std, method=method, designs=designs)
    points, labels = _known(coordinates, values)
    scale = positive_std(component_std)
    white = points / scale
    folded = learn("model_selection").StratifiedKFold if found.binary else learn("model_selection").KFold
    predictions = np.empty_like(labels)
    for seen, held in folded(folds, shuffle=True, random_state=seed).split(white, labels):
        weights, bias, _ = _fit(_designs(white[seen], scale), labels[seen], method)
        predictions[held] = white[held] @ weights + bias
    return replace(found, quality=_quality(labels, predictions, folds, found.binary))


def fit_reader(
    attribute: str,
    coordinates: ArrayLike,
    values: ArrayLike,
    component_std: ArrayLike,
    *,
    method: Method = "least-squares",
    designs: Designs | None = None,
) -> Direction:
    """As ``fit_direction`` without the cross-validation: the quality is that on the identities fitted (``folds`` 0)."""
    if method not in METHODS:
        raise UsageError(reason=f"unknown method {method!r}", hint="one of: " + ", ".join(METHODS))
    points, labels = _known(coordinates, values)
    scale = positive_std(component_std)
    binary = _check_labels(attribute, labels, method)
    weights, bias, ridge = _fit((designs or Designs()).of(points / scale, scale), labels, method)
    reader = weights / scale
    readings = points @ reader + bias
    spread = float(readings.std())
    if not spread > 1e-9 * float(labels.std()):
        raise UsageError(reason=f"the coordinates say nothing about {attribute!r}", hint="label more identities")
    quality = _quality(labels, readings, 0, binary)
    if binary:
        levels = (float(readings[labels < 0.5].mean()), float(readings[labels > 0.5].mean()))
    else:
        low, high = np.quantile(readings, (0.05, 0.95))
        levels = (float(low), float(high))
    return calibrated(
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


# -- measures ----------------------------------------------------------------------------------------
def _quality(labels: Array, readings: Array, folds: int, binary: bool) -> Quality:
    """AUROC of a yes/no attribute, R² of a number."""
    metrics = learn("metrics")
    measure: Literal["auroc", "r2"] = "auroc" if binary else "r2"
    value = metrics.roc_auc_score(labels, readings) if binary else metrics.r2_score(labels, readings)
    return Quality(measure, float(value), folds, len(labels))


def learn(part: str) -> Any:
    """A module of scikit-learn, which loads in a second and is needed for nothing but fitting.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(f"sklearn.{part}")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            package=error.name or "sklearn", extra="directions", feature="fitting attribute directions"
        ) from None


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
        raise UsageError(reason=f"{attribute!r} is not yes/no", hint="use [[method]] least-squares")
    return binary


@dataclass(frozen=True, eq=False)
class _Design:
    """Whitened coordinates (n, k) under one prior, centred and decomposed: ``u`` (n, r), ``s`` (r,), and ``back``
    (k, r) from there to weights."""

    centre: Array
    u: Array
    s: Array
    back: Array


def _designs(white: Array, scale: Array) -> Iterator[_Design]:
    """The prior on the weights is a Gaussian whose width follows a power of the component's own spread: flat (0) when
    an attribute may sit in any component, steep (1) when it sits in the leading ones."""
    centre = white.mean(0)
    for power in PRIORS:
        prior = (scale / scale.max()) ** power
        u, s, vt = _svd((white - centre) * prior)
        yield _Design(centre, u, s, prior[:, None] * vt.T)


def _fit(designs: Iterable[_Design], labels: Array, method: str) -> tuple[Array, float, float]:
    """Weights (k,), bias and the penalty used, in whitened coordinates.

    Prior and penalty are chosen by the leave-one-out error, in closed form.
    """
    middle = float(labels.mean())
    residual = labels - middle
    best: tuple[float, float, _Design] | None = None
    for design in designs:
        ridge, error = _choose_ridge(design.u, design.s, residual)
        if best is None or error < best[0]:
            best = (error, ridge, design)
    assert best is not None
    _, penalty, chosen = best
    rows, s = chosen.u * chosen.s, chosen.s
    weights: Array
    if method == "least-squares":
        weights = chosen.back @ (rows.T @ residual / (s**2 + penalty))
        return weights, middle - float(chosen.centre @ weights), penalty / len(labels)
    # The logistic loss curves at most 1/4 as much as squared error, so the same prior takes a quarter of the penalty.
    model = learn("linear_model").LogisticRegression(C=4.0 / penalty, max_iter=1000, tol=1e-8).fit(rows, labels)
    weights = chosen.back @ model.coef_[0]
    return weights, float(model.intercept_[0]) - float(chosen.centre @ weights), penalty / len(labels)


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
