"""Fingerprints of versions, and what has been learned about comparing them; by base model and question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, Select, UniqueConstraint, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from w2w_registry.catalog.assets import SERVED, Version
from w2w_registry.catalog.base import Base, autoincrement
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.types import BigInt, Hex, UtcDateTime, Words
from w2w_registry.records import VersionState

if TYPE_CHECKING:  # small commands read no fingerprint, and numpy is a tenth of what they cost
    import numpy as np
    from numpy.typing import NDArray

DOOR = "door "
"""Put before the question of what the door compares by."""


class Fingerprint(Base):
    """What a version makes the base model predict: ``data`` is float32 little-endian.

    Only fingerprints of one ``base`` (digest of the UNet's weights) and one ``question`` (probes and prompt) can be
    compared.
    """

    __tablename__ = "fingerprint"
    __table_args__ = (
        UniqueConstraint("version_id", "base", "question"),
        Index("ix_fingerprint_base_question", "base", "question"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"))
    base: Mapped[str] = mapped_column(Hex)
    question: Mapped[str] = mapped_column(Words)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class SpaceFingerprint(Base):
    """What a model that a weight space is made around (``part``: ``space.basis.WeightSpace.centres``) makes the base
    model predict, as ``Fingerprint`` of a version."""

    __tablename__ = "space_fingerprint"
    __table_args__ = (UniqueConstraint("space_id", "part", "base", "question"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    space_id: Mapped[int] = mapped_column(ForeignKey("space.id"))
    part: Mapped[int] = mapped_column(Integer)
    base: Mapped[str] = mapped_column(Hex)
    question: Mapped[str] = mapped_column(Words)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class VerdictCalibration(Base):
    """What repeats taught about fingerprints of one base and question: ``data`` is an npz of the model's arrays, the
    newest counts. ``repeats``: how many second trainings it was learned from. What the door compares by is kept as well
    (its question begins with ``DOOR``), because references are made with it: its newest is of no more weight.
    """

    __tablename__ = "verdict_calibration"
    __table_args__ = (Index("ix_verdict_calibration_base_question", "base", "question"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    base: Mapped[str] = mapped_column(Hex)
    question: Mapped[str] = mapped_column(Words)
    repeats: Mapped[int] = mapped_column(Integer)
    people: Mapped[int] = mapped_column(Integer)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    data: Mapped[bytes] = mapped_column(LargeBinary)


@dataclass(frozen=True)
class Asked:
    """A base model (digest of its UNet) and a question, and how many versions in service have answered it."""

    base: str
    question: str
    versions: int


@dataclass(frozen=True, eq=False)
class Answers:
    """``versions`` and their ``identities`` (n,) int64, and their fingerprints ``matrix`` (n, D) float32."""

    versions: NDArray[np.int64]
    identities: NDArray[np.int64]
    matrix: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Listed:
    """Whose fingerprints there are: their ``ids``, ``versions`` and ``identities`` (n,) int64, ascending by id, and the
    place of each version's state in ``STATES`` (n,) uint8."""

    ids: NDArray[np.int64]
    versions: NDArray[np.int64]
    identities: NDArray[np.int64]
    states: NDArray[np.uint8]


STATES: Final = tuple(VersionState)


def questions(session: Session) -> list[Asked]:
    """Every base and question that versions in service have answered, the most answered first."""
    count = func.count()
    query = (
        select(Fingerprint.base, Fingerprint.question, count)
        .join(Version, Version.id == Fingerprint.version_id)
        .where(Version.state.in_(SERVED))
        .group_by(Fingerprint.base, Fingerprint.question)
        .order_by(count.desc(), Fingerprint.base, Fingerprint.question)
    )
    return [Asked(*row) for row in session.execute(query)]


def questions_of(session: Session, base: str) -> set[str]:
    """Every question that a version of this base model has answered, or that something was learned about."""
    return {
        question.removeprefix(DOOR)
        for table in (Fingerprint, VerdictCalibration)
        for question in session.scalars(select(table.question).where(table.base == base).distinct())
    }


def answers(session: Session, base: str, question: str, states: Iterable[VersionState] = SERVED) -> Answers:
    """All fingerprints of one base and question, by version id."""
    import numpy as np

    query = (
        select(Fingerprint.version_id, Version.identity_id, Fingerprint.data)
        .join(Version, Version.id == Fingerprint.version_id)
        .where(Fingerprint.base == base, Fingerprint.question == question, Version.state.in_(tuple(states)))
        .order_by(Fingerprint.version_id)
    )
    rows = session.execute(query).all()
    matrix = np.frombuffer(b"".join(row.data for row in rows), "<f4").astype(np.float32)
    ids, owners = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    return Answers(ids, owners, matrix.reshape(len(rows), -1) if rows else matrix.reshape(0, 0))


def listed(session: Session, base: str, question: str) -> Listed:
    """Whose fingerprints of one base and question there are, whatever became of the versions."""
    import numpy as np

    query = (
        select(Fingerprint.id, Fingerprint.version_id, Version.identity_id, Version.state)
        .join(Version, Version.id == Fingerprint.version_id)
        .where(Fingerprint.base == base, Fingerprint.question == question)
        .order_by(Fingerprint.id)
    )
    rows = session.execute(query).all()
    place = {state: number for number, state in enumerate(STATES)}
    ids, versions, identities = (np.array([row[column] for row in rows], np.int64) for column in range(3))
    return Listed(ids, versions, identities, np.array([place[row[3]] for row in rows], np.uint8))


def matrix_of(session: Session, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Fingerprints (n, D) float32 by their ids, in this order."""
    import numpy as np

    found: dict[int, bytes] = {}
    for chunk in chunked(ids.tolist()):
        query = select(Fingerprint.id, Fingerprint.data).where(Fingerprint.id.in_(chunk))
        found.update(session.execute(query).tuples().all())
    return np.frombuffer(b"".join(found[number] for number in ids.tolist()), "<f4").reshape(len(ids), -1)


def answer_of(session: Session, version_id: int, base: str, question: str) -> NDArray[np.float32] | None:
    """One version's fingerprint (D,), whatever its state; None when it has none of this base and question."""
    import numpy as np

    query = select(Fingerprint.data).where(
        Fingerprint.version_id == version_id, Fingerprint.base == base, Fingerprint.question == question
    )
    data = session.scalar(query)
    return None if data is None else np.frombuffer(data, "<f4").astype(np.float32)


def answered(session: Session, base: str, question: str, version_ids: Iterable[int]) -> set[int]:
    """Which of the versions have a fingerprint of this base and question."""
    found: set[int] = set()
    for chunk in chunked(version_ids):
        query = select(Fingerprint.version_id).where(
            Fingerprint.base == base, Fingerprint.question == question, Fingerprint.version_id.in_(chunk)
        )
        found.update(session.scalars(query))
    return found


def probable(session: Session) -> list[int]:
    """Ids of the versions a fingerprint can be taken of, oldest first: in service or blocked."""
    states = (*SERVED, VersionState.BLOCKED)
    return list(session.scalars(select(Version.id).where(Version.state.in_(states)).order_by(Version.id)))


def of_versions(session: Session, version_ids: Iterable[int]) -> list[Fingerprint]:
    """Every fingerprint of these versions, whatever their state, by version id."""
    found: list[Fingerprint] = []
    for chunk in chunked(sorted(set(version_ids))):
        found += session.scalars(
            select(Fingerprint).where(Fingerprint.version_id.in_(chunk)).order_by(Fingerprint.version_id)
        )
    return found


def of_spaces(session: Session, space_ids: Iterable[int]) -> list[SpaceFingerprint]:
    """Every fingerprint of what these spaces are made around."""
    query = select(SpaceFingerprint).where(SpaceFingerprint.space_id.in_(set(space_ids)))
    return list(session.scalars(query.order_by(SpaceFingerprint.id)))


def newest_calibration(session: Session, base: str, question: str) -> VerdictCalibration | None:
    """What repeats taught last."""
    return session.scalar(_calibrations(base, question).limit(1))


LARGEST_COUNT = (1 << 31) - 1
"""The largest number of people that is compared with: what an integer column of PostgreSQL holds."""


def newest_of_door(session: Session, base: str, question: str, people: range) -> VerdictCalibration | None:
    """What the door compares by, or makes references with, learned from so many ``people``; the newest there is."""
    made = VerdictCalibration.people
    query = _calibrations(base, DOOR + question).where(made >= people.start, made < people.stop)
    return session.scalar(query.limit(1))


def _calibrations(base: str, question: str) -> Select[VerdictCalibration]:
    return (
        select(VerdictCalibration)
        .where(VerdictCalibration.base == base, VerdictCalibration.question == question)
        .order_by(VerdictCalibration.id.desc())
    )
