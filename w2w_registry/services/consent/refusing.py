"""Who refuses, as the door knows it: versions still there of whoever does not agree, and references of the rest."""

from __future__ import annotations

from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import refusals
from w2w_registry.catalog.models import GuardReference
from w2w_registry.consent.references import Reference, key_id, threshold, unseal_bits
from w2w_registry.errors import SettingError
from w2w_registry.services.consent.behaviour import Behaviour
from w2w_registry.services.consent.door_key import key_path, read_key
from w2w_registry.services.consent.drawn_references import KIND
from w2w_registry.services.consent.places import SKETCH, Places
from w2w_registry.services.consent.rows import stopped
from w2w_registry.services.registry import Registry
from w2w_registry.space.sketch import KIND as SKETCH_KIND

OLD = "simhash-512"
"""Kind of the references that were kept before the door had a key."""


class Whose(Enum):
    """Whose references count: of those who refuse, of those who agree again (nothing else may be left by which they are
    known), or all."""

    REFUSE = "refuse"
    AGREE = "agree"
    ALL = "all"


class Refusing:
    """Everybody who refuses at one instant of one session: looked up when first asked, and not again.

    Args:
        whose: with ``AGREE``, those of whom references are kept though they agree, and no version.
    """

    def __init__(self, registry: Registry, session: Session, places: Places, whose: Whose = Whose.REFUSE) -> None:
        self._registry, self._session, self._places, self._whose = registry, session, places, whose

    @property
    def anybody(self) -> bool:
        """Whether anybody refused at all."""
        return bool(self.rows or self.versions)

    @cached_property
    def rows(self) -> list[GuardReference]:
        """Every reference of theirs, sealed, of every kind."""
        rows = refusals.references(self._session)
        agree = {row.id for row in rows if row.kind.endswith(refusals.AGREED)}
        if agree:  # and still do: a consent may have run out
            agree = {row.id for row in rows if row.id in agree and row.subject_id not in self._stopped}
        wanted = self._whose
        return [row for row in rows if wanted is Whose.ALL or (row.id in agree) is (wanted is Whose.AGREE)]

    @cached_property
    def key(self) -> bytes | None:
        """The door's key; None when none was made yet."""
        return read_key(self._registry)

    @cached_property
    def versions(self) -> dict[int, str]:
        """Versions still there whose subject refuses: id -> subject."""
        return {} if self._whose is Whose.AGREE else refusals.depicting(self._session, self._stopped)

    @cached_property
    def _stopped(self) -> set[str]:
        return stopped(self._session)

    @cached_property
    def references(self) -> dict[int | None, list[Reference]]:
        """References by place, opened with the key. Raises SettingError: it is not the one they were made with."""
        found: dict[int | None, list[Reference]] = {}
        for row in self.rows:
            if row.kind == OLD or row.kind.startswith(f"{KIND} "):
                continue
            what, key_name = refusals.parts(row.kind)
            place = None if what == SKETCH else row.space_id
            found.setdefault(place, []).append(
                Reference(row.subject_id, unseal_bits(row.reference, self._opened(key_name), row.salt), row.threshold)
            )
        return found

    @cached_property
    def standing(self) -> dict[int | None, list[tuple[str, NDArray[np.float32], float]]]:
        """Unit vectors of versions still there whose subject refuses, by place, with the cosine that is refused."""
        session, versions = self._session, self.versions
        found: dict[int | None, list[tuple[str, NDArray[np.float32], float]]] = {}
        by_place: dict[int | None, list[tuple[int, bytes]]] = dict(refusals.points_by_space(session, versions).items())
        by_place[None] = refusals.sketches(session, SKETCH_KIND, versions)
        for place, rows in by_place.items():
            if not rows:
                continue
            others = self._places.strangers(place, versions)
            units = self._places.unit(place, self._places.read(place, [data for _, data in rows]))
            for (version_id, _), mine in zip(rows, units, strict=True):
                limit = threshold(others @ mine if len(others) else np.zeros(0))
                found.setdefault(place, []).append((versions[version_id], mine, limit))
        return found

    @cached_property
    def spaces(self) -> set[int]:
        """Spaces in which somebody refuses."""
        places = {*self.references, *self.standing, *(row.space_id for row in self.rows if row.kind == OLD)}
        return {place for place in places if place is not None}

    @cached_property
    def behaviour(self) -> Behaviour:
        """What refused likenesses draw."""
        return Behaviour(self._session, lambda: self.versions, lambda: self.rows, self._opened)

    def _opened(self, name: str) -> bytes:
        """The key, which must be the one of this name. Raises SettingError."""
        if self.key is None or name != key_id(self.key):
            raise SettingError(
                setting="door_key",
                value=str(key_path(self._registry)),
                reason="is not the key that the references of people who refused were made with; "
                "restore it from a backup",
            )
        return self.key
