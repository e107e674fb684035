"""The door's third place: what likenesses that refused make the base model draw (``space.refusal``).

Whatever rank, start, modules or space an adapter has, its fingerprint can be compared on its base model. Of versions
still there their own fingerprints are held; of whoever was erased or is protected, references: so many signs of
projections of a fingerprint, and its length, sealed with the door's key, that it can be estimated from them. (Earlier
releases kept signs and lengths of what each view of the comparison expects; those stay what they were.)

Who refused is one of the people too among whom the others are looked for: where few are registered, it is they who say
how people differ.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog import refusals
from w2w_registry.catalog.models import GuardReference, VerdictCalibration
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.references import Encounter, cosines, key_id, likeliest, seal
from w2w_registry.services.consent.drawn_references import (
    KIND,
    DrawnReference,
    contexts,
    drawn_bits,
    packed,
    sets_of,
    unpacked,
)
from w2w_registry.services.recording.gallery import read_model, written
from w2w_registry.services.recording.likeness import Print
from w2w_registry.space.refusal import (
    ALARM,
    CROWD,
    HOLD,
    Comparison,
    Kept,
    Nearer,
    few_model,
    is_current,
    is_few,
    refusal_model,
)
from w2w_registry.space.verdict import LEAST_GALLERY, VerdictModel

BY = "behaviour"
MADE = "made"
"""What is said of whom a newcomer meets that was made and not trained."""
_SETS = 8
"""Sets of ``BITS`` projections of a fingerprint: it can be estimated to within an eighth of a radian."""
_NONE = -1
"""In place of a version's id, of a person whose version is gone."""
_AGAIN = 0.98
_AT_ONCE = 500

_FEW, _ENOUGH = range(LEAST_GALLERY), range(LEAST_GALLERY, stored.LARGEST_COUNT)
"""How many people comparisons are learned from."""

Place = tuple[str, str]
"""A base model (digest of its UNet) and a question: fingerprints of one place can be compared."""


@dataclass(frozen=True, eq=False)
class Population:
    """People of one place, registered and refusing: version ids (n,), fingerprints (n, D), and who refuses ("" for the
    registered)."""

    versions: NDArray[np.int64]
    matrix: NDArray[np.float32]
    refusing: tuple[str, ...]

    def without(self, besides: Collection[int], subject: str) -> Population:
        kept = ~np.isin(self.versions, list(besides)) & np.array([who != subject for who in self.refusing], bool)
        return Population(self.versions[kept], self.matrix[kept], tuple(np.array(self.refusing)[kept].tolist()))

    def places(self, whose: Sequence[str]) -> NDArray[np.int64]:
        """Where each of these subjects is among them, −1 where they are not."""
        at = {who: place for place, who in enumerate(self.refusing) if who}
        return np.array([at.get(who, -1) for who in whose], np.int64)


class Behaviour:
    """What refused likenesses draw, as it stands at one instant of one session.

    Args:
        refusing: versions still there whose subject refuses: id -> subject. rows: every reference.
        opened: the door's key, which must have this name; raises SettingError when it has not.
    """

    def __init__(
        self,
        session: Session,
        refusing: Callable[[], Mapping[int, str]],
        rows: Callable[[], Sequence[GuardReference]],
        opened: Callable[[str], bytes],
    ) -> None:
        self._session, self._refusing, self._rows, self._opened = session, refusing, rows, opened
        self._standing_: dict[Place, list[tuple[int, str, NDArray[np.float32]]]] | None = None
        self._kept_: dict[Place, dict[int, list[DrawnReference]]] | None = None
        self._people: dict[Place, Population] = {}
        self._estimated_: dict[Place, list[tuple[str, NDArray[np.float32]]]] = {}
        self._models: dict[int | Place, VerdictModel] = {}

    # -- who refuses ----------------------------------------------------------------------------
    @property
    def places(self) -> set[Place]:
        """Where somebody who refused can be compared."""
        return {*self._standing(), *self._kept()}

    def _standing(self) -> dict[Place, list[tuple[int, str, NDArray[np.float32]]]]:
        """Version, subject and fingerprint of who refuses and is still there."""
        if self._standing_ is None:
            found: dict[Place, list[tuple[int, str, NDArray[np.float32]]]] = {}
            versions = self._refusing()
            for row in stored.of_versions(self._session, versions):
                one = (row.version_id, versions[row.version_id], unpack(row.data))
                found.setdefault((row.base, row.question), []).append(one)
            self._standing_ = found
        return self._standing_

    def _kept(self) -> dict[Place, dict[int, list[DrawnReference]]]:
        """References by place and by the model they were made with, opened with the key."""
        if self._kept_ is None:
            found: dict[Place, dict[int, list[DrawnReference]]] = {}
            for row in self._rows():
                what, key_name = refusals.parts(row.kind)
                if not what.startswith(f"{KIND} "):
                    continue
                key, number = self._opened(key_name), int(what.removeprefix(f"{KIND} "))
                place = self._place_of(number)
                if place is not None:
                    opened = seal(row.reference, key, row.salt)
                    one = unpacked(row.subject_id, opened, whole=is_few(self._stored(number)))
                    found.setdefault(place, {}).setdefault(number, []).append(one)
            self._kept_ = found
        return self._kept_

    def _place_of(self, number: int) -> Place | None:
        row = self._session.get(VerdictCalibration, number)
        return None if row is None else (row.base, row.question.removeprefix(stored.DOOR))

    def _estimated(self, place: Place) -> list[tuple[str, NDArray[np.float32]]]:
        """Fingerprints (D,) of those of whom signs of theirs are kept, as near as the signs say."""
        if place not in self._estimated_:
            found: list[tuple[str, NDArray[np.float32]]] = []
            for number, references in self._kept().get(place, {}).items():
                model = self._stored(number)
                if not is_few(model):
                    continue
                key = self._key_of(number)
                for sets in sorted({sets_of(one) for one in references}):
                    some = [one for one in references if sets_of(one) == sets]
                    bits = np.stack([one.bits[0] for one in some])
                    rows = likeliest(bits, key, contexts(number, 0, sets), len(model.centre))
                    rows *= np.array([[one.lengths[0]] for one in some])
                    found += zip([one.subject for one in some], rows.astype(np.float32), strict=True)
            self._estimated_[place] = found
        return self._estimated_[place]

    # -- comparing ------------------------------------------------------------------------------
    def against(self, prints: Sequence[Sequence[Print]]) -> list[list[Encounter]]:
        """Whom newcomers meet, by the fingerprints of each."""
        by_place: dict[Place, list[tuple[int, NDArray[np.float32]]]] = {}
        for number, own in enumerate(prints):
            for one in own:
                by_place.setdefault((one.base, one.question), []).append((number, one.values))
        found: list[list[Encounter]] = [[] for _ in prints]
        for place, rows in by_place.items():
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                met = self._met(place, np.stack([values for _, values in part]), None)
                for (number, _), encounters in zip(part, met, strict=True):
                    found[number] += encounters
        return found

    def against_versions(self, version_ids: Collection[int]) -> dict[int, list[Encounter]]:
        """As ``against``, of registered versions, by what was recorded of them: version id -> encounters."""
        places = self.places
        by_place: dict[Place, list[tuple[int, bytes]]] = {}
        for row in stored.of_versions(self._session, version_ids) if places else ():
            if (row.base, row.question) in places:
                by_place.setdefault((row.base, row.question), []).append((row.version_id, row.data))
        met: dict[int, list[Encounter]] = {}
        for place, rows in by_place.items():
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                ids = np.array([version for version, _ in part], np.int64)
                found = self._met(place, np.stack([unpack(data) for _, data in part]), ids)
                for version, encounters in zip(ids.tolist(), found, strict=True):
                    met.setdefault(version, []).extend(encounters)
        return met

    def disturbed(
        self,
        place: Place,
        queries: NDArray[np.float32],
        ids: NDArray[np.int64],
        weights: Callable[[Sequence[str], Population], Nearer | None] | None,
    ) -> tuple[list[str], NDArray[np.float64], Nearer | None]:
        """Subjects whose fingerprint is known, and the chances (q, r) that a stranger comes as near to them as the
        queries (q, D), were these somebody's model disturbed. ``ids`` (q,): versions that they are. ``weights``: how
        near they come by their weights, which is given back."""
        model, crowd = self._model(place, queries.shape[1]), self._population(place)
        whose, matrix = self._there(place, model)
        if not whose:
            return [], np.zeros((len(queries), 0)), None
        nearer = None if weights is None or is_few(model) else weights(whose, crowd)
        comparison = self._comparison(place, model, queries, ids)
        return whose, comparison.with_made(matrix, crowd.places(whose), nearer), nearer

    def _there(self, place: Place, model: VerdictModel) -> tuple[list[str], NDArray[np.float32]]:
        """Who refuses and has a fingerprint, or one that can be estimated; theirs (r, D)."""
        known = [(who, values) for _, who, values in self._standing().get(place, ())]
        known += () if is_few(model) else self._estimated(place)
        return [who for who, _ in known], np.stack([values for _, values in known] or [np.zeros(1, np.float32)])

    def _comparison(
        self, place: Place, model: VerdictModel, queries: NDArray[np.float32], ids: NDArray[np.int64] | None
    ) -> Comparison:
        """Queries (q, D), which are the registered versions ``ids``, about to be held against who refused there."""
        standing, kept = self._standing().get(place, []), self._kept().get(place, {})
        among = len({who for _, who, _ in standing} | {r.subject for some in kept.values() for r in some})
        crowd = self._population(place)
        own = None if ids is None else ids[:, None] == crowd.versions[None, :]
        return Comparison(model, queries, crowd.matrix, own, among)

    def _met(self, place: Place, queries: NDArray[np.float32], ids: NDArray[np.int64] | None) -> list[list[Encounter]]:
        """For each of the queries (q, D), whom it meets. ``ids``: the registered versions that the queries are."""
        if not self._standing().get(place) and not self._kept().get(place):
            return [[] for _ in queries]
        crowd, model = self._population(place), self._model(place, queries.shape[1])
        alarms: list[NDArray[np.float64]] = []
        whose, matrix = self._there(place, model)
        if whose:
            alarms.append(self._comparison(place, model, queries, ids).with_known(matrix, crowd.places(whose)))
        for number, references in self._kept().get(place, {}).items():
            if is_few(self._stored(number)) and not is_few(model):
                continue  # estimated
            comparison = self._comparison(place, self._stored(number), queries, ids)
            mine = [one.subject for one in references]
            whose += mine
            alarms.append(self._with_kept(comparison, number, references, crowd.places(mine)))
        if not alarms:
            return [[] for _ in queries]
        table = np.concatenate(alarms, axis=1)
        best = table.argmin(axis=1)
        return [
            [Encounter(whose[column], float(1 - row[column]), 1 - ALARM, BY, 1 - HOLD)]
            for row, column in zip(table, best, strict=True)
        ]

    def _with_kept(
        self, comparison: Comparison, number: int, references: Sequence[DrawnReference], places: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Chances of a false alarm (q, r) by references made with the model of this number; ``places`` (r,): where in
        the crowd each of them is."""
        key, sets = self._key_of(number), max(sets_of(one) for one in references)
        asked = [drawn_bits(view, key, number, n, sets) for n, view in enumerate(comparison.asked)]
        return np.stack(
            [
                comparison.with_kept(
                    [
                        Kept(length, cosines(theirs, mine[:, : len(theirs)]))
                        for mine, theirs, length in zip(asked, one.bits, one.lengths, strict=True)
                    ],
                    int(where),
                )
                for one, where in zip(references, places, strict=True)
            ],
            axis=1,
        )

    def _key_of(self, number: int) -> bytes:
        row = next(r for r in self._rows() if r.kind.startswith(f"{KIND} {number}/"))
        return self._opened(refusals.parts(row.kind)[1])

    # -- the population and the model -----------------------------------------------------------
    def _population(self, place: Place) -> Population:
        """Registered people, and of those who refuse as many as there is room for."""
        if place not in self._people:
            rows = refusals.stranger_prints(self._session, *place, self._refusing(), CROWD)
            refusing: dict[str, tuple[int, NDArray[np.float32]]] = {}
            for version, who, values in self._who_draws(place):
                refusing.setdefault(who, (version, values))
            some = list(refusing.items())[: CROWD - len(rows)]
            ids = [*(version for version, _ in rows), *(version for _, (version, _) in some)]
            prints = [*(unpack(data) for _, data in rows), *(values for _, (_, values) in some)]
            self._people[place] = Population(
                np.array(ids, np.int64),
                np.stack(prints) if prints else np.zeros((0, 1), np.float32),
                (*("" for _ in rows), *(who for who, _ in some)),
            )
        return self._people[place]

    def _who_draws(self, place: Place) -> Iterator[tuple[int, str, NDArray[np.float32]]]:
        """Version (or ``_NONE``), subject and fingerprint of who refuses."""
        yield from self._standing().get(place, ())
        for who, values in self._estimated(place):
            yield _NONE, who, values

    def _model(self, place: Place, width: int) -> VerdictModel:
        """The comparison of fingerprints of ``width`` floats with versions still there: the newest stored one unless it
        is out of date, else made anew."""
        if place not in self._models:
            row = self._current(place)
            if row is not None:
                return self._stored(row.id)
            self._models[place] = self._made(place, self._population(place), width)
        return self._models[place]

    def _made(self, place: Place, people: Population, width: int) -> VerdictModel:
        if len(people.versions) < LEAST_GALLERY:
            return few_model(width)
        learned = stored.newest_calibration(self._session, *place)
        return refusal_model(people.matrix, None if learned is None else read_model(learned))

    def _current(self, place: Place) -> VerdictCalibration | None:
        """The newest comparison stored for the door, unless an earlier release made it, repeats taught something since,
        or there are twice as many people to learn from."""
        row = stored.newest_of_door(self._session, *place, _ENOUGH)
        learned = stored.newest_calibration(self._session, *place)
        if row is None or (learned is not None and learned.id > row.id) or not is_current(self._stored(row.id)):
            return None
        return None if len(self._population(place).versions) >= 2 * row.people else row

    def _stored(self, number: int) -> VerdictModel:
        if number not in self._models:
            self._models[number] = read_model(self._session.get_one(VerdictCalibration, number))
        return self._models[number]

    # -- keeping --------------------------------------------------------------------------------
    def keep(self, uow: UnitOfWork, subject: str, prints: Sequence[Print], key: bytes, besides: Collection[int]) -> int:
        """Keep references of what a likeness draws; returns how many there are of it now. ``besides``: versions that
        depict the subject, none of them a stranger to learn from.
        """
        count = 0
        for one in prints:
            place = (one.base, one.question)
            self._keep_model(uow, place, len(one.values), besides, subject)
            number = self._keep_anchor(uow, place, len(one.values))
            count += 1
            bits = drawn_bits(one.values[None], key, number, 0, _SETS)[0]
            mine = [r for r in self._kept().get(place, {}).get(number, []) if r.subject == subject]
            if any(cosines(bits[: len(r.bits[0])], r.bits[0])[0] >= _AGAIN for r in mine):
                continue
            salt = secrets.token_bytes(32)
            uow.add(
                GuardReference(
                    subject_id=subject,
                    space_id=None,
                    kind=f"{KIND} {number}/{key_id(key)}",
                    salt=salt,
                    reference=seal(packed(bits, float(np.linalg.norm(one.values))), key, salt),
                    threshold=1 - ALARM,
                    created=uow.now(),
                )
            )
        return count

    def _keep_model(self, uow: UnitOfWork, place: Place, width: int, besides: Collection[int], subject: str) -> None:
        """Keep what to compare by, which is dear to learn anew each time, once there is anybody to learn from."""
        people = self._population(place).without(besides, subject)
        if len(people.versions) >= LEAST_GALLERY and self._current(place) is None:
            self._keep_row(uow, place, self._made(place, people, width), len(people.versions))

    def _keep_anchor(self, uow: UnitOfWork, place: Place, width: int) -> int:
        """The number that references of a place are made under, which says of which place they are."""
        row = stored.newest_of_door(self._session, *place, _FEW)
        return (row or self._keep_row(uow, place, few_model(width), 0)).id

    def _keep_row(self, uow: UnitOfWork, place: Place, made: VerdictModel, people: int) -> VerdictCalibration:
        row = uow.add(
            VerdictCalibration(
                base=place[0],
                question=stored.DOOR + place[1],
                repeats=sum(training.count for training in made.trainings),
                people=people,
                created=uow.now(),
                data=written(made),
            )
        )
        uow.session.flush()
        uow.event("verdict.calibrate", {"verdict_calibration": row.id}, door=True)
        return row
