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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints, refusals
from w2w_registry.consent.guard import similarities
from w2w_registry.consent.references import (
    Encounter,
    bits_of,
    gravest,
    meet,
    nearest,
)
from w2w_registry.errors import LikenessRefused
from w2w_registry.records import nearness
from w2w_registry.services.consent import namesakes
from w2w_registry.services.consent.made_outside import MadeOutside
from w2w_registry.services.consent.places import Places
from w2w_registry.services.consent.refusing import OLD, Refusing, Whose
from w2w_registry.services.consent.same_photos import with_same_photos
from w2w_registry.services.consent.second_look import Near, SecondLook
from w2w_registry.services.recording.likeness import Likeness
from w2w_registry.services.recording.pipelines import saying_where
from w2w_registry.services.recording.searched import Searched
from w2w_registry.services.recording.versions import Activity, Admission, NewVersion
from w2w_registry.services.registry import Registry
from w2w_registry.space.sketch import KIND as SKETCH_KIND

_SAME_MODEL = 0.95  # cosine of sketches
_AT_ONCE = 2000  # vectors compared at once: their bits take 8 kB each


class Door:
    """The door as it stands at one instant of one session. Who refuses is looked up once, when first asked."""

    def __init__(self, registry: Registry, session: Session, whose: Whose = Whose.REFUSE) -> None:
        self._registry, self._session = registry, session
        self._places = Places(registry, session)
        self._who = Refusing(registry, session, self._places, whose)

    @cached_property
    def agreeing(self) -> Door:
        """The same comparison with those who agree again, of whom references were kept: whom it refuses is known."""
        return Door(self._registry, self._session, Whose.AGREE)

    @property
    def anybody(self) -> bool:
        """Whether anybody refused at all."""
        return self._who.anybody

    def admit(self, new: NewVersion, activity: Activity | None = None, near: Sequence[Near] | None = None) -> Admission:
        """Let a new version in, inside the transaction that records it; held when it resembles somebody it does not say
        it is (``second_look``), or when it may draw somebody who refused.

        Args:
            activity: what made it; None = an import. near: what ``second.near`` found, when it was asked for many.

        Raises:
            LikenessRefused: it is somebody who refused. SettingError: the door's key is not the one it was.
            Conflict: it bears the name of somebody it is not made of.
        """
        (admission,) = self.admit_all([new], [activity], None if near is None else [near])
        return admission

    def admit_all(
        self,
        news: Sequence[NewVersion],
        activities: Sequence[Activity | None],
        near: Sequence[Sequence[Near]] | None = None,
        searched: Searched | None = None,
    ) -> list[Admission]:
        """As :meth:`admit`, for many: a few matrix products and one look for erased models, however many there are.
        ``searched``: as ``second.near`` takes it."""
        said = [(new.name, new.kind, new.subjects, activity) for new, activity in zip(news, activities, strict=True)]
        namesakes.check(self._session, [(name, activity) for name, *_, activity in said])
        points = [{} if n.space_id is None or n.coordinates is None else {n.space_id: n.coordinates} for n in news]
        likenesses = [new.likeness for new in news]
        met = self.meets_all(likenesses, points)
        gone = refusals.erased_with_digests(self._session, [new.model_digest for new in news])
        for new, encounter in zip(news, met, strict=True):
            _refuse(new.name if new.file is None else new.file.name, encounter, gone.get(new.model_digest))
        found = self.second.near(likenesses, points, searched) if near is None else near
        met = self._or_made(news, activities, found, met)
        found = with_same_photos(self._session, activities, found)
        known = self.agreeing.meets_all(likenesses, points) if self.agreeing.anybody else [None] * len(news)
        held = self.second.held_all(said, found, met, known)
        unlike = namesakes.unlike(self._session, self.second, said, likenesses, points)
        return [
            Admission(new.model_digest, held=one or unlike.get(i))
            for i, (new, one) in enumerate(zip(news, held, strict=True))
        ]

    def _or_made(
        self,
        news: Sequence[NewVersion],
        activities: Sequence[Activity | None],
        near: Sequence[Sequence[Near]],
        met: Sequence[Encounter | None],
    ) -> list[Encounter | None]:
        """Whom each meets, or may draw though it comes no nearer: made of somebody's model outside the registry."""
        unsure = [i for i, one in enumerate(met) if one is not None and not one.doubtful]
        made = self._made_outside.newcomers(news, activities, near, unsure)
        return [made.get(i, one) for i, one in enumerate(met)]

    @cached_property
    def _made_outside(self) -> MadeOutside:
        return MadeOutside(self._registry, self._session, self._places, self._who)

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
            for space_id in self._who.spaces:
                point = known.get(space_id)
                if point is None and likeness.factors is not None:
                    point = self._places.coordinates(likeness.factors, space_id)
                if point is not None:
                    places.setdefault(space_id, []).append((i, point))
            if likeness.sketch is not None and likeness.sketch.norm > 0:
                places.setdefault(None, []).append((i, likeness.sketch.values))
        found: list[list[Encounter]] = [[] for _ in likenesses]
        for place, vectors in places.items():
            against = self._against(place, np.stack([vector for _, vector in vectors]))
            for (i, _), encounters in zip(vectors, against, strict=True):
                found[i] += encounters
        for own, more in zip(found, self._who.behaviour.against([one.prints for one in likenesses]), strict=True):
            own += more
        return [gravest(encounters) for encounters in found]

    def meets_centres(self, likenesses: Sequence[Likeness]) -> list[Encounter | None]:
        """As :meth:`meets_all`, for what spaces are made around. A mean has of all that models have in common, so its
        sketch comes nearer to everybody's than a stranger's does: by it only the same model is refused."""
        met = self.meets_all([replace(one, sketch=None) for one in likenesses], [{} for _ in likenesses])
        for i, one in enumerate(likenesses):
            if one.sketch is not None and one.sketch.norm > 0:
                same = [e for e in self._against(None, one.sketch.values[None])[0] if e.similarity >= _SAME_MODEL]
                met[i] = gravest([*same, *(e for e in (met[i],) if e is not None)])
        return met

    @property
    def places(self) -> set[tuple[str, str]]:
        """Base models and questions of which somebody who refused has a fingerprint."""
        return self._who.behaviour.places

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
        return {version_id: e for version_id, e in self._worst(version_ids).items() if e.refused}

    def doubts(self, version_ids: Collection[int]) -> dict[int, Encounter]:
        """Registered versions that may draw somebody who refused, and are not refused: version id -> encounter."""
        worst = self._worst(version_ids)
        left = [version_id for version_id, e in worst.items() if not e.refused and not e.doubtful]
        worst |= self._made_outside.versions(left)
        return {version_id: e for version_id, e in worst.items() if e.doubtful}

    def known(self, version_ids: Collection[int]) -> dict[int, Encounter]:
        """Registered versions that are, or may draw, somebody who agrees again: version id -> encounter."""
        worst = self.agreeing._worst(version_ids)
        return {version_id: e for version_id, e in worst.items() if e.refused or e.doubtful}

    def _worst(self, version_ids: Collection[int]) -> dict[int, Encounter]:
        if not self.anybody:
            return {}
        places: dict[int | None, list[tuple[int, bytes]]] = {
            place: rows
            for place, rows in refusals.points_by_space(self._session, version_ids).items()
            if place in self._who.spaces
        }
        places[None] = refusals.sketches(self._session, SKETCH_KIND, version_ids)
        met: dict[int, list[Encounter]] = {}
        for place, rows in places.items():
            if rows:
                against = self._against(place, self._places.read(place, [data for _, data in rows]))
                for (version_id, _), found in zip(rows, against, strict=True):
                    met.setdefault(version_id, []).extend(found)
        for version_id, encounters in self._who.behaviour.against_versions(version_ids).items():
            met.setdefault(version_id, []).extend(encounters)
        worst = {version_id: gravest(found) for version_id, found in met.items()}
        return {version_id: e for version_id, e in worst.items() if e is not None}

    def uncompared(self, version_ids: Collection[int]) -> set[int]:
        """Those of the versions whom nobody who refused was compared with by what they draw: they have no fingerprint
        of the base model and question of somebody's, nor of any while nobody has one. Empty when nobody refused."""
        if not self.anybody:
            return set()
        places = self._who.behaviour.places
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
        return bool(asked & self._who.behaviour.places if self._who.behaviour.places else asked)

    # -- comparing ------------------------------------------------------------------------------
    def _against(self, place: int | None, vectors: NDArray[np.float32]) -> list[list[Encounter]]:
        """The gravest encounters of each of ``vectors`` (n, d), all of one place."""
        if len(vectors) > _AT_ONCE:
            parts = [vectors[start : start + _AT_ONCE] for start in range(0, len(vectors), _AT_ONCE)]
            return [found for part in parts for found in self._against(place, part)]
        by = "sketch" if place is None else "coordinates"
        units = self._places.unit(place, vectors)
        some = np.flatnonzero(units.any(axis=1))
        found: list[list[Encounter]] = [[] for _ in units]
        standing, kept = self._who.standing.get(place, ()), self._who.references.get(place, ())
        met: list[list[Encounter]] = []
        if standing:
            whose, theirs, limits = zip(*standing, strict=True)
            met.append(nearest(whose, units[some] @ np.stack(theirs).T, limits, by))
        if kept and self._who.key is not None:
            met.append(meet(kept, bits_of(units[some], self._who.key, self._places.context(place)), by))
        for row in self._who.rows:
            if row.kind == OLD and row.space_id == place:
                scores = similarities(row.salt, row.reference, units[some])
                met.append(nearest([row.subject_id], scores[:, None], [row.threshold], by))
        for encounters in met:
            for i, encounter in zip(some, encounters, strict=True):
                found[i].append(encounter)
        return found


def _refuse(path: str, met: Encounter | None, gone: str | None) -> None:
    """Raise for whom a model meets, or whose erased model it is (``gone``)."""
    if met is not None and met.refused:
        raise refusal(path, met)
    if gone is not None:
        raise LikenessRefused(path=path, subject=gone, near="this very model")


def refusal(path: str, met: Encounter) -> LikenessRefused:
    """Why something is refused for whom it meets."""
    near = nearness(met.by, met.similarity, met.threshold)
    return LikenessRefused(path=path, subject=met.subject, near=near)


def said_uncompared(door: Door, likeness: Likeness, why: str | None = None) -> tuple[str, ...]:
    """What to say of a newcomer whom nobody who refused was compared with by what it draws. ``why``: what kept it."""
    if door.compares(likeness):
        return ()
    reason = why or f"its base model is not on this machine ({saying_where('MODEL')})"
    return (f"compared with people who refused by its weights alone: {reason}",)
