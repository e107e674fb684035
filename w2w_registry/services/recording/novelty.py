"""Which of many new models are plainly new: known by no file, no digest and no sketch, to the catalog or one another.

``equivalents.known_model`` says the same of one, exactly, in several statements; this says it of hundreds in a few, and
leaves to it whatever may be known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import known_among
from w2w_registry.records import VersionState
from w2w_registry.services.recording.equivalents import near_any
from w2w_registry.space.sketch import NEAR, PROBES, Sketch


@dataclass(frozen=True, eq=False)
class Arrival:
    """A model on its way in: of its file, of its numbers (exact, and as fp16 and bf16 round them; exact alone where
    rounding moves its ΔW so little that ``sketch`` finds what it rounds to), of its ΔW."""

    sha256: str
    digests: tuple[str, ...]
    sketch: Sketch | None


def plainly_new(session: Session, arrivals: Sequence[Arrival]) -> list[bool]:
    """For each arrival whether nothing in the catalog, and no other arrival, can be the same model."""
    files, models = known_among(
        session, [a.sha256 for a in arrivals], [digest for a in arrivals for digest in a.digests]
    )
    seen = Counter(key for a in arrivals for key in {a.sha256, *a.digests})
    sketched = [(i, a.sketch) for i, a in enumerate(arrivals) if a.sketch is not None and a.sketch.norm > 0]
    apart = dict(zip((i for i, _ in sketched), _apart(session, [sketch for _, sketch in sketched]), strict=True))
    found = []
    for i, arrival in enumerate(arrivals):
        keys = {arrival.sha256, *arrival.digests}
        known = arrival.sha256 in files or not models.isdisjoint(arrival.digests)
        found.append(apart.get(i, False) and not known and all(seen[key] == 1 for key in keys))
    return found


def _apart(session: Session, sketches: Sequence[Sketch]) -> NDArray[np.bool_]:
    """Which of new sketches are near none of a version's, in any state, and no other of them."""
    if not sketches:
        return np.zeros(0, bool)
    values = np.array([sketch.values for sketch in sketches], np.float64)
    norms = np.array([sketch.norm for sketch in sketches])
    square = np.einsum("nd,nd->n", values, values)
    between = np.sqrt(np.maximum(square[:, None] + square - 2 * values @ values.T, 0.0)) / np.sqrt(PROBES)
    near = between <= (NEAR + 1e-6) * np.maximum(norms[:, None], norms)
    alone = near.sum(axis=1) == 1  # itself
    return np.asarray(alone & [not rows for rows in near_any(session, sketches, tuple(VersionState))], bool)
