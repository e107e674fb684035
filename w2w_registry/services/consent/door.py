"""The door: everything new or leaving is held against every likeness that refused (DESIGN §5).

    door = Door(registry, uow.session)
    version = record_version(uow, new, activity, door.admit(new, activity))

A version cannot be recorded without the admission that is made here, and the gate (``services.consent.gate``) asks
:meth:`Door.encounters` of every version that is used, so no service can forget to. What refuses: whoever withdrew
(their references are kept unless they ask that nothing be), is protected, or whose consent has run out or never held
(their versions' rows, in any state). What is compared: the model's ΔW by its sketch, in any space and in none, and its
coordinates in every space in which somebody refuses; and what it draws, where its fingerprint could be taken
(``services.consent.behaviour``). What it is called, of which kind it is and whom it is said to depict are not asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints, refusals
from w2w_registry.catalog.models import GuardReference, Space
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.guard import Reference as OldReference
from w2w_registry.consent.guard import similarities
from w2w_registry.consent.policy import subject_state
from w2w_registry.consent.references import (
    Encounter,
    Reference,
    bits_of,
    cosines,
    gravest,
    key_id,
    meet,
    nearest,
    seal_bits,
    threshold,
    unseal_bits,
)
from w2w_registry.errors import LikenessRefused, RegistryError, SettingError
from w2w_registry.lora import Factors
from w2w_registry.records import ConsentState
from w2w_registry.services.consent import behaviour
from w2w_registry.services.consent.behaviour import Behaviour
from w2w_registry.services.consent.door_key import ensure_key, key_path, read_key
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.consent.second_look import Near, SecondLook, as_held
from w2w_registry.services.recording.likeness import Likeness, Print
from w2w_registry.services.recording.spaces import load_space, metric_of
from w2w_registry.services.recording.versions import Activity, Admission, NewVersion
from w2w_registry.services.registry import Registry, present
from w2w_registry.space.gauge import to_gauge
from w2w_registry.space.metrics import Metric, cosine
from w2w_registry.space.sketch import KIND as SKETCH_KIND
from w2w_registry.space.sketch import Sketch

_OLD = "simhash-512"
_STRANGERS = 1000
_AT_ONCE = 2000  # vectors compared at once: their bits take 8 kB each
_SKETCHES = cosine()  # how sketches are compared
_ENDED = (ConsentState.WITHDRAWN, ConsentState.INVALIDATED, ConsentState.EXPIRED)
_SKETCH = f"sketch {SKETCH_KIND}"
_AGAIN = 0.98
"""Estimated cosine from which on a reference of the same person is the same reference."""


class Door:
    """The door as it stands at one instant of one session. Who refuses is looked up once, when first asked."""

    def __init__(self, registry: Registry, session: Session) -> None:
        self._registry, self._session = registry, session
        self._fresh: dict[int, Space] = {}
        self._metrics: dict[int, Metric] = {}

    @property
    def anybody(self) -> bool:
        """Whether anybody refused at all."""
        return bool(self._rows or self._refusing)

    def admit(self, new: NewVersion, activity: Activity | None = None, near: Sequence[Near] | None = None) -> Admission:
        """Let a new version in, inside the transaction that records it; held when it resembles somebody it does not say
        it is (``second_look``).

        Args:
            activity: what made it; None = an import. near: what ``second.near`` found, when it was asked for many.

        Raises:
            LikenessRefused: it is somebody who refused. SettingError: the door's key is not the one it was.
        """
        (admission,) = self.admit_all([new], [activity], None if near is None else [near])
        return admission

    def admit_all(
        self,
        news: Sequence[NewVersion],
        activities: Sequence[Activity | None],
        near: Sequence[Sequence[Near]] | None = None,
    ) -> list[Admission]:
        """As :meth:`admit`, for many: a few matrix products and one look for erased models, however many there are."""
        points = [{} if n.space_id is None or n.coordinates is None else {n.space_id: n.coordinates} for n in news]
        likenesses = [new.likeness for new in news]
        met = self.meets_all(likenesses, points)
        gone = refusals.erased_with_digests(self._session, [new.model_digest for new in news])
        for new, encounter in zip(news, met, strict=True):
            _refuse(new.name if new.file is None else new.file.name, encounter, gone.get(new.model_digest))
        found = self.second.near(likenesses, points) if near is None else near
        said = [(new.name, new.kind, new.subjects, activity) for new, activity in zip(news, activities, strict=True)]
        told = self.second.told_all(said, found)
        return [Admission(new.model_digest, held=as_held(one)) for new, one in zip(news, told, strict=True)]

    @cached_property
    def second(self) -> SecondLook:
        """The second look at newcomers nobody refused."""
        return SecondLook(self._registry, self._session)

    def hold(
        self,
        likeness: Likeness,
        points: Mapping[int, NDArray[np.float32]],
        *,
        path: str,
        model_digest: str | None = None,
    ) -> None:
        """Raise unless nobody who refused is met by a likeness, at coordinates (k,) by space where they are known.

        Raises:
            LikenessRefused, SettingError.
        """
        digests = [] if model_digest is None else [model_digest]
        gone = refusals.erased_with_digests(self._session, digests)
        _refuse(path, self.meets(likeness, points), next(iter(gone.values()), None))

    def meets(self, likeness: Likeness, points: Mapping[int, NDArray[np.float32]]) -> Encounter | None:
        """Whom a likeness comes nearest to being refused for; None when nobody refused anything comparable."""
        (met,) = self.meets_all([likeness], [points])
        return met

    def meets_all(
        self, likenesses: Sequence[Likeness], points: Sequence[Mapping[int, NDArray[np.float32]]]
    ) -> list[Encounter | None]:
        """As :meth:`meets`, for many."""
        places: dict[int | None, list[tuple[int, NDArray[np.float32]]]] = {}
        for i, (likeness, known) in enumerate(zip(likenesses, points, strict=True)):
            for space_id in self._spaces:
                point = known.get(space_id)
                if point is None and likeness.factors is not None:
                    point = self._coordinates(likeness.factors, space_id)
                if point is not None:
                    places.setdefault(space_id, []).append((i, point))
            if likeness.sketch is not None and likeness.sketch.norm > 0:
                places.setdefault(None, []).append((i, likeness.sketch.values))
        found: list[list[Encounter]] = [[] for _ in likenesses]
        for place, vectors in places.items():
            against = self._against(place, np.stack([vector for _, vector in vectors]))
            for (i, _), encounters in zip(vectors, against, strict=True):
                found[i] += encounters
        for own, more in zip(found, self._behaviour.against([one.prints for one in likenesses]), strict=True):
            own += more
        return [gravest(encounters) for encounters in found]

    def refuses(
        self,
        likenesses: Sequence[Likeness],
        points: Sequence[Mapping[int, NDArray[np.float32]]],
        model_digests: Sequence[str],
    ) -> list[bool]:
        """Which of many :meth:`hold` would not let pass."""
        gone = refusals.erased_with_digests(self._session, model_digests)
        met = self.meets_all(likenesses, points)
        return [(m is not None and m.refused) or d in gone for m, d in zip(met, model_digests, strict=True)]

    def encounters(self, version_ids: Collection[int]) -> dict[int, Encounter]:
        """Registered versions that are somebody who refused, whatever they are said to be: version id -> encounter."""
        if not self.anybody:
            return {}
        places: dict[int | None, list[tuple[int, bytes]]] = {
            place: rows
            for place, rows in refusals.points_by_space(self._session, version_ids).items()
            if place in self._spaces
        }
        places[None] = refusals.sketches(self._session, SKETCH_KIND, version_ids)
        met: dict[int, list[Encounter]] = {}
        for place, rows in places.items():
            if rows:
                against = self._against(place, np.stack([unpack(data) for _, data in rows]))
                for (version_id, _), found in zip(rows, against, strict=True):
                    met.setdefault(version_id, []).extend(found)
        for version_id, encounters in self._behaviour.against_versions(version_ids).items():
            met.setdefault(version_id, []).extend(encounters)
        worst = {version_id: gravest(found) for version_id, found in met.items()}
        return {version_id: e for version_id, e in worst.items() if e is not None and e.refused}

    def uncompared(self, version_ids: Collection[int]) -> set[int]:
        """Those of the versions whom nobody who refused was compared with by what they draw: they have no fingerprint
        of the base model and question of somebody's, nor of any while nobody has one. Empty when nobody refused."""
        if not self.anybody:
            return set()
        places = self._behaviour.places
        seen = {
            row.version_id
            for row in fingerprints.of_versions(self._session, version_ids)
            if not places or (row.base, row.question) in places
        }
        return set(version_ids) - seen

    def compares(self, likeness: Likeness) -> bool:
        """Whether a newcomer is compared by what it draws with everybody who refused; true while nobody did."""
        if not self.anybody:
            return True
        asked = {(one.base, one.question) for one in likeness.prints}
        return bool(asked & self._behaviour.places if self._behaviour.places else asked)

    # -- who refuses ----------------------------------------------------------------------------
    @cached_property
    def _references(self) -> dict[int | None, list[Reference]]:
        """References by place, opened with the key."""
        found: dict[int | None, list[Reference]] = {}
        for row in self._rows:
            if row.kind == _OLD or row.kind.startswith(f"{behaviour.KIND} "):
                continue
            what, key_name = row.kind.rsplit("/", 1)
            place = None if what == _SKETCH else row.space_id
            found.setdefault(place, []).append(
                Reference(row.subject_id, unseal_bits(row.reference, self._opened(key_name), row.salt), row.threshold)
            )
        return found

    def _opened(self, name: str) -> bytes:
        """The key, which must be the one of this name. Raises SettingError."""
        if self._key is None or name != key_id(self._key):
            raise SettingError(
                setting="door_key",
                value=str(key_path(self._registry)),
                reason="is not the key that the references of people who refused were made with; "
                "restore it from a backup",
            )
        return self._key

    @cached_property
    def _behaviour(self) -> Behaviour:
        return Behaviour(self._session, lambda: self._refusing, lambda: self._rows, self._opened)

    @cached_property
    def _refusing(self) -> dict[int, str]:
        """Versions still there whose subject refuses: id -> subject."""
        at, session = present(self._session), self._session
        perhaps = refusals.perhaps_refusing(session, at)
        records = load_records(session, perhaps, history=False)
        stopped = {s for s in perhaps if s not in records or subject_state(records[s], at) in _ENDED}
        return refusals.depicting(session, stopped)

    @cached_property
    def _standing(self) -> dict[int | None, list[tuple[str, NDArray[np.float32], float]]]:
        """Unit vectors of versions still there whose subject refuses, by place, with the cosine that is refused."""
        session, versions = self._session, self._refusing
        found: dict[int | None, list[tuple[str, NDArray[np.float32], float]]] = {}
        by_place: dict[int | None, list[tuple[int, bytes]]] = dict(refusals.points_by_space(session, versions).items())
        by_place[None] = refusals.sketches(session, SKETCH_KIND, versions)
        for place, rows in by_place.items():
            if not rows:
                continue
            others = self._strangers(place, versions)
            for version_id, data in rows:
                mine = self._unit(place, unpack(data))
                limit = threshold(others @ mine if len(others) else np.zeros(0))
                found.setdefault(place, []).append((versions[version_id], mine, limit))
        return found

    @cached_property
    def _rows(self) -> list[GuardReference]:
        return refusals.references(self._session)

    @cached_property
    def _key(self) -> bytes | None:
        return read_key(self._registry)

    @cached_property
    def _spaces(self) -> set[int]:
        """Spaces in which somebody refuses."""
        places = {*self._references, *self._standing, *(row.space_id for row in self._rows if row.kind == _OLD)}
        return {place for place in places if place is not None}

    # -- comparing ------------------------------------------------------------------------------
    def _against(self, place: int | None, vectors: NDArray[np.float32]) -> list[list[Encounter]]:
        """The gravest encounters of each of ``vectors`` (n, d), all of one place."""
        if len(vectors) > _AT_ONCE:
            parts = [vectors[start : start + _AT_ONCE] for start in range(0, len(vectors), _AT_ONCE)]
            return [found for part in parts for found in self._against(place, part)]
        by = "sketch" if place is None else "coordinates"
        units = self._unit(place, vectors)
        some = np.flatnonzero(units.any(axis=1))
        found: list[list[Encounter]] = [[] for _ in units]
        standing, kept = self._standing.get(place, ()), self._references.get(place, ())
        met: list[list[Encounter]] = []
        if standing:
            whose, theirs, limits = zip(*standing, strict=True)
            met.append(nearest(whose, units[some] @ np.stack(theirs).T, limits, by))
        if kept and self._key is not None:
            met.append(meet(kept, bits_of(units[some], self._key, self._context(place)), by))
        for row in self._rows:
            if row.kind == _OLD and row.space_id == place:
                old = OldReference(row.subject_id, row.salt, row.reference, row.threshold)
                scores = similarities(old.salt, old.sketch, units[some])
                met.append(nearest([old.subject], scores[:, None], [old.threshold], by))
        for encounters in met:
            for i, encounter in zip(some, encounters, strict=True):
                found[i].append(encounter)
        return found

    def _unit(self, place: int | None, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors (d,) or (n, d) float32, by the place's metric; nothing stays zeros."""
        if place is None:
            return _SKETCHES.unit(vectors)
        if place not in self._metrics:
            self._metrics[place] = metric_of(self._space(place))
        return self._metrics[place].unit(vectors)

    def _strangers(self, place: int | None, besides: Collection[int]) -> NDArray[np.float32]:
        if place is None:
            rows = refusals.stranger_sketches(self._session, SKETCH_KIND, besides, _STRANGERS)
        else:
            rows = refusals.strangers(self._session, place, besides, _STRANGERS)
        return self._unit(place, np.stack([unpack(data) for data in rows])) if rows else np.zeros((0, 1), np.float32)

    def _context(self, place: int | None) -> str:
        return _SKETCH if place is None else f"coordinates {self._space(place).digest}"

    def _space(self, space_id: int) -> Space:
        if space_id not in self._fresh:
            self._fresh[space_id] = self._session.get_one(Space, space_id)
        return self._fresh[space_id]

    def _coordinates(self, factors: Factors, space_id: int) -> NDArray[np.float32] | None:
        """Where ΔW lies in a space; None where it cannot be said (other modules, another start)."""
        try:
            space = load_space(self._registry.artifacts, self._space(space_id))
            gauged = to_gauge(factors.tensors, factors.alphas, space.layout, space.mean, space.std, space.start)
        except RegistryError:
            return None
        return space.project(gauged.theta)

    # -- keeping --------------------------------------------------------------------------------
    def keep(
        self,
        uow: UnitOfWork,
        subject: str,
        likeness: Likeness,
        points: Mapping[int, NDArray[np.float32]],
        besides: Collection[int],
    ) -> float:
        """Keep references of a likeness that refused: of its sketch, and of its coordinates by space.

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
            mine = self._unit(place, vector)
            if not mine.any():
                continue
            context, salt = self._context(place), secrets.token_bytes(32)
            bits = bits_of(mine, key, context)[0]
            kept = [r for r in self._references.get(place, []) if r.subject == subject]
            again = [r.threshold for r in kept if cosines(bits, r.bits)[0] >= _AGAIN]
            if again:
                lowest = min(lowest, *again)
                continue
            others = self._strangers(place, besides)
            limit = threshold(cosines(bits, bits_of(others, key, context)) if len(others) else np.zeros(0))
            what = _SKETCH if place is None else "coordinates"
            uow.add(
                GuardReference(
                    subject_id=subject,
                    space_id=place,
                    kind=f"{what}/{key_id(key)}",
                    salt=salt,
                    reference=seal_bits(bits, key, salt),
                    threshold=limit,
                    created=uow.now(),
                )
            )
            lowest = min(lowest, limit)
        self._behaviour.keep(uow, subject, likeness.prints, key, besides)
        return lowest


def _refuse(path: str, met: Encounter | None, gone: str | None) -> None:
    """Raise for whom a model meets, or whose erased model it is (``gone``)."""
    if met is not None and met.refused:
        raise LikenessRefused(
            path=path, subject=met.subject, score=round(met.similarity, 3), threshold=round(met.threshold, 3)
        )
    if gone is not None:
        raise LikenessRefused(path=path, subject=gone, score=1.0, threshold=1.0)


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
    drawn = {version_id: unpack(data) for version_id, data in refusals.sketches(session, SKETCH_KIND, own)}
    prints: dict[int, list[Print]] = {}
    for row in fingerprints.of_versions(session, own):
        prints.setdefault(row.version_id, []).append(Print(row.base, row.question, unpack(row.data)))
    door = Door(registry, session)
    having = sorted({*points, *drawn, *prints})
    for version_id in having:
        values = drawn.get(version_id)
        sketch = None if values is None else Sketch(values, float(np.linalg.norm(values)))
        known = Likeness(None, sketch, tuple(prints.get(version_id, ())))
        door.keep(uow, subject, known, points.get(version_id, {}), depicting)
    return len(having)


def said_uncompared(door: Door, likeness: Likeness, why: str | None = None) -> tuple[str, ...]:
    """What to say of a newcomer whom nobody who refused was compared with by what it draws. ``why``: what kept it."""
    if door.compares(likeness):
        return ()
    reason = why or "its base model is not on this machine (name its folder under [pipelines] in registry.toml)"
    return (f"compared with people who refused by its weights alone: {reason}",)


def unprotect(uow: UnitOfWork, subject_id: str) -> int:
    """Forget a subject's references, as a new consent asks; returns how many there were."""
    keys = uow.keys(GuardReference, GuardReference.subject_id == subject_id)
    return uow.bulk_delete(GuardReference, keys)
