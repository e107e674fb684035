"""Calibrating a space on LoRAs it was not fitted on.

A fitted LoRA lies nearer to its own space than a new one will: its residual is lower and its scores against
others are more even. What a new LoRA will look like is measured by leaving some out, fold by fold. All of it follows
from the inner products of the standardised LoRAs, so the LoRAs themselves are not read again (kernel PCA: Schölkopf,
Smola & Müller, 1998); σ is the whole set's in every fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.eigen import leading
from w2w_registry.space.metrics import Metric
from w2w_registry.space.ordinary import Ordinary, energies, ordinary
from w2w_registry.space.rows import forget

Array = NDArray[np.float64]

ENOUGH = 4096
"""LoRAs whose inner products are made for calibrating, when the fit did not need them."""
FOLDS = 4
_COLUMNS = 2048
_NEGLIGIBLE = 1e-10
_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class CrossFit:
    """What left-out LoRAs look like: ``residuals`` (n,), and ``impostors``, the scores of each against every fitted
    identity, as a search for it would give them; and how much of one lies where (``space.ordinary``)."""

    residuals: Array
    impostors: Array
    ordinary: Ordinary


def cross_fit(gram: Array, components: int, choose_metric: Callable[[NDArray[np.float32]], Metric]) -> CrossFit:
    """Fit ``FOLDS`` spaces, each without every ``FOLDS``-th LoRA, and look at the ones left out.

    Args:
        gram: inner products (n, n) of standardised LoRAs, n ≥ 2 · ``FOLDS``.
        components: k of the whole space; a fold's space keeps as many, if it has them.
        choose_metric: the metric for a component_std (k,), as it was chosen for the whole space.
    """
    n = len(gram)
    residuals, quarters, halves = np.empty(n), np.empty((n, 3)), np.empty((n, 3))
    impostors = []
    for out, fitted, left_out, size in _folds(gram, components, FOLDS):
        std, rest = fitted.std(axis=0, ddof=1), _outside(left_out, size)
        metric = choose_metric(std.astype(np.float32))
        residuals[out] = np.sqrt(np.divide(rest, size, out=np.zeros_like(size), where=size > 0))
        quarters[out] = energies(left_out, std, rest)
        scores = metric.unit(left_out.astype(np.float32)) @ metric.unit(fitted.astype(np.float32)).T
        impostors.append(scores.astype(np.float64).reshape(-1))
    for out, fitted, left_out, size in _folds(gram, components, 2):
        halves[out] = energies(left_out, fitted.std(axis=0, ddof=1), _outside(left_out, size))
    return CrossFit(residuals, np.concatenate(impostors), ordinary(halves, quarters))


def _folds(gram: Array, components: int, count: int) -> Iterator[tuple[NDArray[np.int64], Array, Array, Array]]:
    """Who is left out of each fold (q,), and ``_fold`` of it."""
    everybody = np.arange(len(gram))
    for first in range(count):
        out = everybody[first::count]
        yield out, *_fold(gram, np.delete(everybody, out), out, components)


def _outside(coordinates: Array, size: Array) -> Array:
    """‖z‖² (n,) of what a space does not reach of LoRAs at coordinates (n, k) with ‖z‖² ``size``."""
    return np.asarray(np.maximum(size - np.einsum("nk,nk->n", coordinates, coordinates), 0.0))


def _fold(gram: Array, kept: NDArray[Any], out: NDArray[Any], components: int) -> tuple[Array, Array, Array]:
    """Coordinates of the kept (m, k) and of the left out (q, k) in the space of the kept, and ‖z‖² (q,) there."""
    inner = gram[np.ix_(kept, kept)]
    middle = inner.mean(axis=0)
    whole = float(middle.mean())
    inner = inner - middle - middle[:, None] + whole
    across = gram[np.ix_(out, kept)]
    own = across.mean(axis=1)
    size = gram[out, out] - 2 * own + whole
    across = across - own[:, None] - middle + whole
    found = leading(inner, min(components, len(kept) - 1), _TOLERANCE, 0)
    keep = int(np.sum(found.values > _NEGLIGIBLE * found.values[0]))
    length, axes = np.sqrt(found.values[:keep]), np.asarray(found.vectors[:, :keep], np.float64)
    return axes * length, across @ (axes / length), size


def inner_products(thetas: NDArray[np.float32], space: WeightSpace) -> Array:
    """Z Zᵀ (m, m) float64 of at most ``ENOUGH`` of θ (n, D), evenly spaced, standardised as in ``space``."""
    some = np.unique(np.linspace(0, len(thetas) - 1, min(len(thetas), ENOUGH)).astype(int))
    mean, inverse = space.mean, (1.0 / space.std.astype(np.float64)).astype(np.float32)
    total = np.zeros((len(some), len(some)))
    for first in range(0, thetas.shape[1], _COLUMNS):
        part = slice(first, first + _COLUMNS)
        z = (thetas[some, part] - mean[part]) * inverse[part]
        total += z @ z.T
        forget(thetas)
    return total
