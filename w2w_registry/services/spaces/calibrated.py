"""A space with what its scores mean: fitted, then measured on LoRAs that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.services.spaces.fitset import FitSet
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.crossfit import cross_fit, inner_products
from w2w_registry.space.device import on_device
from w2w_registry.space.fit import FitReport, fit
from w2w_registry.space.metrics import (
    Calibration,
    Metric,
    calibrate_scores,
    default_metric,
    reliability_weighted,
    repeat_reliability,
)
from w2w_registry.space.rows import RowHasher

FALSE_MATCH_RATE = 1e-4
"""Of pairs of different identities, how many may score as the same one."""
_FEW = 40
"""With fewer LoRAs nothing can be said about those left out of the fit."""
_PAIRS = 10


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The space with its metric and calibration; what new LoRAs of it will look like (empty when not known): their
    ``residual``, and what is ``ordinary`` among them (``space.ordinary``); and how exact the fit is."""

    space: WeightSpace
    newcomers: dict[str, Any]
    report: FitReport


def fit_calibrated(
    fit_set: FitSet,
    base_model: str,
    revision: str | None,
    components: int | None,
    repeats: FitSet | None = None,
    device: str = "cpu",
) -> Calibrated:
    """Fit, choose the metric, calibrate.

    Args:
        device: what to compute the fit on, ``cpu`` or a torch device.

    Raises:
        UsageError: nothing to fit, or repeats that do not match. DeviceError, MissingExtra: no such device.
    """
    found = fit(
        on_device(fit_set.thetas, device),
        fit_set.layout,
        base_model=base_model,
        base_revision=revision,
        components=components,
        fit_set_digest=_digest(fit_set),
        start=fit_set.start,
        memory=fit_set.thetas.nbytes // 8 if fit_set.thetas.nbytes > _HELD else None,
        scratch=fit_set.scratch,
    )
    space = found.space
    pairs = _pairs(space, fit_set, repeats)
    if pairs is not None:
        space = replace(space, repeat_reliability=repeat_reliability(*pairs))

    def choose(component_std: NDArray[np.float32]) -> Metric:
        if space.repeat_reliability is not None:
            return reliability_weighted(component_std, space.repeat_reliability[: len(component_std)])
        return default_metric(component_std)

    metric = choose(space.component_std)
    calibration: Calibration | None = None
    newcomers: dict[str, Any] = {}
    if len(fit_set.members) >= _FEW:
        gram = found.gram if found.gram is not None else inner_products(fit_set.thetas, space)
        left_out = cross_fit(gram, space.k, choose)
        impostors, genuine = left_out.impostors, None
        if pairs is not None:
            # Better than left-out LoRAs: these were trained apart from the fitted ones, as a query is.
            first, second = pairs
            genuine = metric.score(first, second)
            across = metric.unit(second).astype(np.float64) @ metric.unit(first).T
            impostors = across[~np.eye(len(across), dtype=bool)]
        calibration = calibrate_scores(metric.name, impostors, genuine=genuine, false_match_rate=FALSE_MATCH_RATE)
        newcomers = {
            "residual": {
                "typical": float(np.median(left_out.residuals)),
                "high": float(np.quantile(left_out.residuals, 0.99)),
            },
            "ordinary": left_out.ordinary.to_json(),
        }
    return Calibrated(replace(space, metric=metric, calibration=calibration), newcomers, found.report)


_HELD = 1 << 28
"""Bytes of θ from which on the matrices of a fit are kept to a share of them (256 MB)."""


def _digest(fit_set: FitSet) -> str:
    hasher = RowHasher()
    try:
        for _, block in fit_set.blocks():
            hasher.add(np.asarray(block))
        return hasher.digest()
    finally:
        hasher.close()


def _pairs(space: WeightSpace, fit_set: FitSet, repeats: FitSet | None) -> tuple[Any, Any] | None:
    """Coordinates of identities trained twice: (first trainings, second trainings), row by row."""
    if repeats is None:
        return None
    if repeats.layout != fit_set.layout:
        raise UsageError(reason="the repeats do not have the layout of the fit set")
    at = {member.name: i for i, member in enumerate(fit_set.members)}
    rows = [(at[m.name], j) for j, m in enumerate(repeats.members) if m.name in at]
    if len(rows) < _PAIRS:
        raise UsageError(reason=f"only {len(rows)} repeats share a name with the fit set; at least {_PAIRS} are needed")
    first = np.concatenate([space.project(block) for _, block in fit_set.blocks()])
    again = np.concatenate([space.project(space.in_gauge(block)) for _, block in repeats.blocks()])
    return first[[i for i, _ in rows]], again[[j for _, j in rows]]
