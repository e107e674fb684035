"""Where likenesses are compared at the door: coordinates in a space, and ΔW's sketch in none (place ``None``)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import refusals
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.vectors import unpack
from w2w_registry.errors import RegistryError
from w2w_registry.lora import Factors
from w2w_registry.services.recording.spaces import load_space, metric_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.gauge import to_gauge
from w2w_registry.space.metrics import Metric, cosine
from w2w_registry.space.ordinary import Ordinary, energies
from w2w_registry.space.sketch import KIND as SKETCH_KIND
from w2w_registry.space.sketch import unpacked

SKETCH = f"sketch {SKETCH_KIND}"
_SKETCHES = cosine()  # how sketches are compared
_STRANGERS = 1000
_LEAST = 1e-9


class Places:
    """The places of one session: a space and its metric are read once."""

    def __init__(self, registry: Registry, session: Session) -> None:
        self._registry, self._session = registry, session
        self._spaces: dict[int, Space] = {}
        self._metrics: dict[int, Metric] = {}

    def unit(self, place: int | None, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors (d,) or (n, d) float32, by the place's metric; nothing stays zeros."""
        if place is None:
            return _SKETCHES.unit(vectors)
        if place not in self._metrics:
            self._metrics[place] = metric_of(self._space(place))
        return self._metrics[place].unit(vectors)

    @staticmethod
    def read(place: int | None, stored: Sequence[bytes]) -> NDArray[np.float32]:
        """What the catalog stores of one place, as numbers (n, d); n > 0."""
        return unpacked(stored) if place is None else np.stack([unpack(data) for data in stored])

    def strangers(self, place: int | None, besides: Collection[int]) -> NDArray[np.float32]:
        """Unit vectors (n, d) of some registered versions, n ≤ 1,000, none of them in ``besides``."""
        if place is None:
            rows = refusals.stranger_sketches(self._session, SKETCH_KIND, besides, _STRANGERS)
        else:
            rows = refusals.strangers(self._session, place, besides, _STRANGERS)
        return self.unit(place, self.read(place, rows)) if rows else np.zeros((0, 1), np.float32)

    def context(self, place: int | None) -> str:
        """What names the projections of a place's references: they depend on all of it."""
        return SKETCH if place is None else f"coordinates {self._space(place).digest}"

    def coordinates(self, factors: Factors, space_id: int) -> NDArray[np.float32] | None:
        """Where ΔW lies in a space, (k,); None where it cannot be said (other modules, another start)."""
        written = self._written(factors, space_id)
        return None if written is None else written[0].project(written[1])

    def largest_first(self, spaces: Collection[int]) -> list[int]:
        """The spaces, those first that were fitted on most."""
        return sorted(spaces, key=lambda i: (-(self._space(i).fit_size or 0), i))

    def unusual(self, factors: Factors, space_id: int) -> bool:
        """Whether no training that the space was not fitted on leaves such a ΔW (``space.ordinary``); false where that
        is not known."""
        row = self._space(space_id)
        known = row.calibration.get("ordinary")
        if known is None or not (normal := Ordinary.from_json(known)).holds_for(row.fit_size or 0):
            return False
        written = self._written(factors, space_id)
        if written is None:
            return False
        space, theta = written
        coordinates, residuals = space.placed([theta])
        left = residuals**2
        outside = (coordinates.astype(np.float64) ** 2).sum(1) * left / np.maximum(1 - left, _LEAST)
        return bool(normal.unusual(energies(coordinates, space.component_std, outside))[0])

    def _written(self, factors: Factors, space_id: int) -> tuple[WeightSpace, NDArray[np.float32]] | None:
        """A space and θ (D,) of ΔW in its gauge."""
        try:
            space = load_space(self._registry.artifacts, self._space(space_id))
            gauged = to_gauge(factors.tensors, factors.alphas, space.layout, space.mean, space.std, space.start)
        except RegistryError:
            return None
        return space, gauged.theta

    def _space(self, space_id: int) -> Space:
        if space_id not in self._spaces:
            self._spaces[space_id] = self._session.get_one(Space, space_id)
        return self._spaces[space_id]
