"""Whether a new LoRA looks like the versions of the identity whose name it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.models import Space
from w2w_registry.catalog.points import points_named
from w2w_registry.services.recording.spaces import metric_of


@dataclass(frozen=True)
class Comparison:
    """How near a point comes to an identity: to the nearest of its versions in the space. ``threshold``: the score
    from which on it is the same identity, None where the space is not calibrated."""

    score: float
    threshold: float | None

    @property
    def same(self) -> bool:
        return self.threshold is not None and self.score >= self.threshold

    @property
    def other(self) -> bool:
        return self.threshold is not None and self.score < self.threshold


def compare(session: Session, space: Space, name: str, coordinates: NDArray[np.float32]) -> Comparison | None:
    """A new point (k,) against the active versions of the identity ``name``; None when none is in the space."""
    points = points_named(session, space.id, name)
    if not points:
        return None
    metric = metric_of(space)
    best = max(float(metric.score(coordinates, point)) for point in points)
    return Comparison(best, space.calibration.get("threshold"))
