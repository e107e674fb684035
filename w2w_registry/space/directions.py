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
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.errors import UsageError

Array = NDArray[np.float64]


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
    return with_leakage(calibrated(replace(direction, vector=step, kept=kept)), others)


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
        raise UsageError(reason="the parts cancel each other out")
    ends = [sum((d.levels[i if w > 0 else 1 - i]) * w / d.spread for d, w in parts) for i in (0, 1)]
    weakest = min((d.quality for d, _ in parts), key=lambda q: q.value)
    first = parts[0][0]
    return calibrated(
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


def calibrated(direction: Direction) -> Direction:
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


def positive_std(component_std: ArrayLike) -> Array:
    """Component standard deviations as float64, floored so that dividing by them is safe."""
    scale = np.abs(np.asarray(component_std, np.float64))
    return np.maximum(scale, 1e-6 * float(scale.max(initial=0.0)) + 1e-30)
