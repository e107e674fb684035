"""The door's third place: what likenesses that refused make the base model draw (``space.refusal``).

Whatever rank, start, modules or space an adapter has, its fingerprint can be compared on its base model. Of versions
still there their own fingerprints are held; of whoever was erased or is protected, references: signs of projections and
lengths of what each view of the comparison expects, sealed with the door's key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog import refusals
from w2w_registry.catalog.models import GuardReference, VerdictCalibration
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.references import BITS, Encounter, bits_of, cosines, key_id, seal
from w2w_registry.services.recording.gallery import read_model, written
from w2w_registry.services.recording.likeness import Print
from w2w_registry.space.refusal import (
    ALARM,
    CROWD,
    HOLD,
    Comparison,
    Kept,
    expected,
    few_model,
    is_few,
    is_presumed,
    refusal_model,
)
from w2w_registry.space.verdict import LEAST_GALLERY, VerdictModel

KIND = "behaviour"
BY = "behaviour"
_SETS = 2
"""Sets of ``BITS`` projections per view: likelihoods need closer cosines than a threshold does."""
_AGAIN = 0.98
_AT_ONCE = 500

Place = tuple[str, str]
"""A base model (digest of its UNet) and a question: fingerprints of one place can be compared."""


@dataclass(frozen=True, eq=False)
class _Reference:
    """Of one subject: per view the bits (``_SETS`` · ``BITS``,) and the length of what is expected of them."""

    subject: str
    bits: tuple[NDArray[np.bool_], ...]
    lengths: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Population:
    """Registered people of one place: version ids (n,), fingerprints (n, D)."""

    versions: NDArray[np.int64]
    matrix: NDArray[np.float32]

    def without(self, besides: Collection[int]) -> _Population:
        kept = ~np.isin(self.versions, list(besides))
        return _Population(self.versions[kept], self.matrix[kept])


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
        self._standing_: dict[Place, list[tuple[str, NDArray[np.float32]]]] | None = None
        self._kept_: dict[Place, dict[int, list[_Reference]]] | None = None
        self._people: dict[Place, _Population] = {}
        self._models: dict[int | Place, VerdictModel] = {}

    # -- who refuses ----------------------------------------------------------------------------
    @property
    def places(self) -> set[Place]:
        """Where somebody who refused can be compared."""
        return {*self._standing(), *self._kept()}

    def _standing(self) -> dict[Place, list[tuple[str, NDArray[np.float32]]]]:
        if self._standing_ is None:
            found: dict[Place, list[tuple[str, NDArray[np.float32]]]] = {}
            versions = self._refusing()
            for row in stored.of_versions(self._session, versions):
                found.setdefault((row.base, row.question), []).append((versions[row.version_id], unpack(row.data)))
            self._standing_ = found
        return self._standing_

    def _kept(self) -> dict[Place, dict[int, list[_Reference]]]:
        """References by place and by the model they were made with, opened with the key."""
        if self._kept_ is None:
            found: dict[Place, dict[int, list[_Reference]]] = {}
            for row in self._rows():
                what, _, key_name = row.kind.rpartition("/")
                if not what.startswith(f"{KIND} "):
                    continue
                key, number = self._opened(key_name), int(what.removeprefix(f"{KIND} "))
                place = self._place_of(number)
                if place is not None:
                    found.setdefault(place, {}).setdefault(number, []).append(
                        _unpacked(row.subject_id, seal(row.reference, key, row.salt))
                    )
            self._kept_ = found
        return self._kept_

    def _place_of(self, number: int) -> Place | None:
        row = self._session.get(VerdictCalibration, number)
        return None if row is None else (row.base, row.question.removeprefix(stored.DOOR))

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
        """Whom registered versions meet, by what was recorded of them: version id -> encounters."""
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

    def _met(self, place: Place, queries: NDArray[np.float32], ids: NDArray[np.int64] | None) -> list[list[Encounter]]:
        """For each of the queries (q, D), whom it meets. ``ids``: the registered versions that the queries are."""
        standing, kept = self._standing().get(place, []), self._kept().get(place, {})
        if not standing and not kept:
            return [[] for _ in queries]
        crowd = self._population(place)
        among = len({who for who, _ in standing} | {r.subject for some in kept.values() for r in some})
        own = None if ids is None else ids[:, None] == crowd.versions[None, :]
        whose: list[str] = []
        alarms: list[NDArray[np.float64]] = []
        if standing:
            matrix = np.stack([values for _, values in standing])
            whose += [who for who, _ in standing]
            comparison = Comparison(self._model(place, queries.shape[1]), queries, crowd.matrix, own, among)
            alarms.append(comparison.with_known(matrix))
        for number, references in kept.items():
            comparison = Comparison(self._stored(number), queries, crowd.matrix, own, among)
            whose += [one.subject for one in references]
            alarms.append(self._with_kept(comparison, number, references))
        table = np.concatenate(alarms, axis=1)
        best = table.argmin(axis=1)
        return [
            [Encounter(whose[column], float(1 - row[column]), 1 - ALARM, BY, 1 - HOLD)]
            for row, column in zip(table, best, strict=True)
        ]

    def _with_kept(self, comparison: Comparison, number: int, references: Sequence[_Reference]) -> NDArray[np.float64]:
        """Chances of a false alarm (q, r) by references made with the model of this number."""
        key = self._key_of(number)
        asked = [_bits(view, key, number, n) for n, view in enumerate(comparison.asked)]
        return np.stack(
            [
                comparison.with_kept(
                    [
                        Kept(length, cosines(theirs, mine))
                        for mine, theirs, length in zip(asked, one.bits, one.lengths, strict=True)
                    ]
                )
                for one in references
            ],
            axis=1,
        )

    def _key_of(self, number: int) -> bytes:
        row = next(r for r in self._rows() if r.kind.startswith(f"{KIND} {number}/"))
        return self._opened(row.kind.rpartition("/")[2])

    # -- the population and the model -----------------------------------------------------------
    def _population(self, place: Place) -> _Population:
        if place not in self._people:
            rows = refusals.stranger_prints(self._session, *place, self._refusing(), CROWD)
            ids = np.array([version for version, _ in rows], np.int64)
            matrix = np.stack([unpack(data) for _, data in rows]) if rows else np.zeros((0, 1), np.float32)
            self._people[place] = _Population(ids, matrix)
        return self._people[place]

    def _model(self, place: Place, width: int) -> VerdictModel:
        """The comparison of fingerprints of ``width`` floats with versions still there: the newest stored one unless it
        is out of date, else made anew."""
        if place not in self._models:
            row = self._current(place)
            if row is not None:
                return self._stored(row.id)
            self._models[place] = self._made(place, self._population(place), width)
        return self._models[place]

    def _made(self, place: Place, people: _Population, width: int) -> VerdictModel:
        if len(people.versions) < LEAST_GALLERY:
            return few_model(width)
        learned = stored.newest_calibration(self._session, *place)
        return refusal_model(people.matrix, None if learned is None else read_model(learned))

    def _current(self, place: Place) -> VerdictCalibration | None:
        """The newest comparison stored for the door, unless an earlier release made it, repeats taught something since,
        or there are twice as many people to learn from, or enough for the first time."""
        row = stored.newest_calibration(self._session, *place, door=True)
        learned = stored.newest_calibration(self._session, *place)
        if row is None or (learned is not None and learned.id > row.id):
            return None
        model = self._stored(row.id)
        if not (is_few(model) or is_presumed(model)):
            return None
        return None if len(self._population(place).versions) >= max(2 * row.people, LEAST_GALLERY) else row

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
            number = self._keep_model(uow, place, len(one.values), besides)
            count += 1
            views = expected(self._stored(number), one.values)
            bits = [_bits(view[None], key, number, n)[0] for n, view in enumerate(views)]
            mine = [r for r in self._kept().get(place, {}).get(number, []) if r.subject == subject]
            if any(cosines(bits[0], r.bits[0])[0] >= _AGAIN for r in mine):
                continue
            salt = secrets.token_bytes(32)
            lengths = [float(np.linalg.norm(view)) for view in views]
            uow.add(
                GuardReference(
                    subject_id=subject,
                    space_id=None,
                    kind=f"{KIND} {number}/{key_id(key)}",
                    salt=salt,
                    reference=seal(_packed(bits, lengths), key, salt),
                    threshold=1 - ALARM,
                    created=uow.now(),
                )
            )
        return count

    def _keep_model(self, uow: UnitOfWork, place: Place, width: int, besides: Collection[int]) -> int:
        row = self._current(place)
        if row is None:
            people = self._population(place).without(besides)
            made = self._made(place, people, width)
            row = uow.add(
                VerdictCalibration(
                    base=place[0],
                    question=stored.DOOR + place[1],
                    repeats=sum(training.count for training in made.trainings),
                    people=len(people.versions),
                    created=uow.now(),
                    data=written(made),
                )
            )
            uow.session.flush()
            uow.event("verdict.calibrate", {"verdict_calibration": row.id}, door=True)
        return row.id


def _bits(vectors: NDArray[np.float64], key: bytes, number: int, view: int) -> NDArray[np.bool_]:
    """Signs (n, ``_SETS`` · ``BITS``)."""
    return np.concatenate([bits_of(vectors, key, f"{KIND} {number} {view} {n}") for n in range(_SETS)], axis=1)


def _packed(bits: Sequence[NDArray[np.bool_]], lengths: Sequence[float]) -> bytes:
    return b"".join(np.packbits(b).tobytes() + np.float32(n).tobytes() for b, n in zip(bits, lengths, strict=True))


def _unpacked(subject: str, data: bytes) -> _Reference:
    size = _SETS * BITS // 8
    parts = [data[i : i + size + 4] for i in range(0, len(data), size + 4)]
    bits = tuple(np.unpackbits(np.frombuffer(part[:size], np.uint8)).astype(bool) for part in parts)
    return _Reference(subject, bits, tuple(float(np.frombuffer(part[size:], "<f4")[0]) for part in parts))
