"""Calibrating a space on LoRAs it was not fitted on.

A fitted LoRA lies nearer to its own space than a new one will: its residual is lower and its scores against
others are more even. What a new LoRA will look like is measured by leaving some out, fold by fold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.fit import fit_space
from w2w_registry.space.layout import Layout
from w2w_registry.space.metrics import Metric


@dataclass(frozen=True, eq=False)
class CrossFit:
    """What left-out LoRAs look like: ``residuals`` (n,), and ``impostors``, the scores of each against every fitted
    identity, as a search for it would give them."""

    residuals: NDArray[np.float64]
    impostors: NDArray[np.float64]


def cross_fit(
    thetas: NDArray[np.float32],
    layout: Layout,
    components: int,
    choose_metric: Callable[[WeightSpace], Metric],
    *,
    folds: int = 4,
) -> CrossFit:
    """Fit ``folds`` spaces, each without every ``folds``-th LoRA, and look at the ones left out.

    Args:
        thetas: (n, D) float32, n ≥ 2 · folds.
        components: k of the whole space; a fold's space keeps as many, if it has them.
        choose_metric: the metric for a space, as it was chosen for the whole one.
    """
    residuals = np.empty(len(thetas))
    impostors = []
    for fold in range(folds):
        out = np.arange(fold, len(thetas), folds)
        kept = np.delete(np.arange(len(thetas)), out)
        space = fit_space(thetas[kept], layout, base_model="cross-fit")
        space = space.truncated(min(components, space.k))
        coordinates = space.project(thetas[out])
        residuals[out] = space.residual(thetas[out], coordinates)
        metric = choose_metric(space)
        scores = metric.unit(coordinates) @ metric.unit(space.project(thetas[kept])).T
        impostors.append(scores.astype(np.float64).reshape(-1))
    return CrossFit(residuals, np.concatenate(impostors))
