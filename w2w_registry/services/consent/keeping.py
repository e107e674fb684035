"""What the door keeps of people who refuse: references of their likeness, which say nothing without the door's key."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog import fingerprints, refusals
from w2w_registry.catalog.models import GuardReference
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.references import bits_of, cosines, key_id, seal_bits, threshold
from w2w_registry.services.consent.door_key import ensure_key
from w2w_registry.services.consent.places import SKETCH, Places
from w2w_registry.services.consent.refusing import Refusing, Whose
from w2w_registry.services.recording.likeness import Likeness, Print
from w2w_registry.services.registry import Registry
from w2w_registry.space.sketch import KIND as SKETCH_KIND
from w2w_registry.space.sketch import Sketch, unpacked

_AGAIN = 0.98
"""Estimated cosine from which on a reference of the same person is the same reference."""


class Keeper:
    """Keeps references in one unit of work, beside those that were there when it began."""

    def __init__(self, registry: Registry, uow: UnitOfWork) -> None:
        self._registry, self._uow = registry, uow
        self._places = Places(registry, uow.session)
        self._refusing = Refusing(registry, uow.session, self._places, Whose.ALL)

    def keep(
        self,
        subject: str,
        likeness: Likeness,
        points: Mapping[int, NDArray[np.float32]],
        besides: Collection[int],
    ) -> float:
        """Keep references of a likeness that refused: of its sketch, of its coordinates by space, of what it draws.

        Args:
            besides: versions that depict the subject; none of them is a stranger to calibrate on.

        Returns:
            The lowest cosine that one of them refuses from (1 when there was nothing to keep).
        """
        key = ensure_key(self._registry)
        vectors: dict[int | None, NDArray[np.float32]] = dict(points.items())
        if likeness.sketch is not None and likeness.sketch.norm > 0:
            vectors[None] = likeness.sketch.values
        lowest = 1.0
        for place, vector in vectors.items():
            mine = self._places.unit(place, vector)
            if mine.any():
                lowest = min(lowest, self._keep_at(place, subject, mine, key, besides))
        self._refusing.behaviour.keep(self._uow, subject, likeness.prints, key, besides)
        return lowest

    def _keep_at(
        self, place: int | None, subject: str, mine: NDArray[np.float32], key: bytes, besides: Collection[int]
    ) -> float:
        """Keep a unit vector (d,) of one place, unless its like is kept; returns the cosine that is refused."""
        context, salt = self._places.context(place), secrets.token_bytes(32)
        bits = bits_of(mine, key, context)[0]
        kept = [r for r in self._refusing.references.get(place, []) if r.subject == subject]
        again = [r.threshold for r in kept if cosines(bits, r.bits)[0] >= _AGAIN]
        if again:
            return min(again)
        others = self._places.strangers(place, besides)
        limit = threshold(cosines(bits, bits_of(others, key, context)) if len(others) else np.zeros(0))
        what = SKETCH if place is None else "coordinates"
        self._uow.add(
            GuardReference(
                subject_id=subject,
                space_id=place,
                kind=f"{what}/{key_id(key)}",
                salt=salt,
                reference=seal_bits(bits, key, salt),
                threshold=limit,
                created=self._uow.now(),
            )
        )
        return limit


def keep_versions(registry: Registry, uow: UnitOfWork, subject: str, own: Sequence[int], depicting: set[int]) -> int:
    """Keep references of what these versions of a subject are; returns how many versions had anything to keep.

    Args:
        own: versions that depict the subject themselves (no derivatives).
        depicting: every version that depicts the subject; none of them is a stranger to calibrate on.
    """
    session = uow.session
    points: dict[int, dict[int, NDArray[np.float32]]] = {}
    for space_id, rows in refusals.points_by_space(session, own).items():
        for version_id, data in rows:
            points.setdefault(version_id, {})[space_id] = unpack(data)
    sketches = refusals.sketches(session, SKETCH_KIND, own)
    drawn = dict(zip((version_id for version_id, _ in sketches), unpacked([data for _, data in sketches]), strict=True))
    prints: dict[int, list[Print]] = {}
    for row in fingerprints.of_versions(session, own):
        prints.setdefault(row.version_id, []).append(Print(row.base, row.question, unpack(row.data)))
    keeper = Keeper(registry, uow)
    having = sorted({*points, *drawn, *prints})
    for version_id in having:
        values = drawn.get(version_id)
        sketch = None if values is None else Sketch(values, float(np.linalg.norm(values)))
        known = Likeness(None, sketch, tuple(prints.get(version_id, ())))
        keeper.keep(subject, known, points.get(version_id, {}), depicting)
    return len(having)
