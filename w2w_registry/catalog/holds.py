"""Versions held because they resemble somebody they do not say they are, and what was decided about them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ForeignKey, Index, exists, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from w2w_registry.catalog.assets import Identity, Version
from w2w_registry.catalog.base import Base, Salted, autoincrement
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.types import BigInt, Json, Number, UtcDateTime, Words
from w2w_registry.records import OperationKind, VersionState


class Hold(Salted, Base):
    """A version resembles ``like_id`` (None: nothing was compared), which is at odds with what it claims (``why``).

    ``by``: what was compared. ``score`` and ``false_alarm``: how near, and how often a stranger comes so near.
    ``resolved``, ``resolver``, ``outcome`` (``same`` or ``distinct``), ``same_as`` and ``reason``: what was decided
    last, None while it is open. ``before``: what the decision changed, so that another one can take it back.
    """

    __tablename__ = "hold"
    __table_args__ = (Index("ix_hold_version_id", "version_id"), Index("ix_hold_resolved", "resolved"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"))
    like_id: Mapped[int | None] = mapped_column(ForeignKey("version.id"))
    by: Mapped[str] = mapped_column(Words)
    why: Mapped[str] = mapped_column(Words)
    score: Mapped[float | None] = mapped_column(Number)
    false_alarm: Mapped[float | None] = mapped_column(Number)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    resolved: Mapped[datetime | None] = mapped_column(UtcDateTime)
    resolver: Mapped[str | None] = mapped_column(Words)
    outcome: Mapped[str | None] = mapped_column(Words)
    same_as: Mapped[int | None] = mapped_column(ForeignKey("version.id"))
    reason: Mapped[str | None] = mapped_column(Words)
    before: Mapped[dict[str, Any] | None] = mapped_column(Json)


class Held(NamedTuple):
    """An open hold with what is known of its version: name, number, and who added it."""

    hold: Hold
    name: str
    number: int
    agent: str
    state: VersionState


def hold_of(session: Session, version_id: int) -> Hold | None:
    """The newest hold of a version, open or decided."""
    return session.scalar(select(Hold).where(Hold.version_id == version_id).order_by(Hold.id.desc()).limit(1))


@once
def anything_open(session: Session) -> bool:
    """Whether anything is held at all."""
    return session.scalar(select(Hold.id).where(Hold.resolved.is_(None)).limit(1)) is not None


def open_holds(session: Session, version_ids: Iterable[int] | None = None) -> list[Held]:
    """Holds nobody has decided yet, of these versions or of all that are still in the registry, the oldest first."""
    query = (
        select(Hold, Identity.name, Version.number, Operation.agent, Version.state)
        .join(Version, Version.id == Hold.version_id)
        .join(Identity, Identity.id == Version.identity_id)
        .join(Operation, Operation.id == Version.operation_id)
        .where(Hold.resolved.is_(None), Version.state.not_in((VersionState.REMOVED, VersionState.ERASED)))
        .order_by(Hold.id)
    )
    if version_ids is None:
        return [Held(*row) for row in session.execute(query)]
    return [
        Held(*row)
        for chunk in chunked(sorted(set(version_ids)))
        for row in session.execute(query.where(Hold.version_id.in_(chunk)))
    ]


def holds_at(session: Session, version_ids: Iterable[int], moment: datetime) -> list[Hold]:
    """The holds of versions that were held at a moment."""
    found: dict[int, Hold] = {}
    for chunk in chunked(version_ids):
        query = select(Hold).where(Hold.version_id.in_(chunk), Hold.created <= moment).order_by(Hold.id)
        found |= {hold.version_id: hold for hold in session.scalars(query)}
    return list(found.values())


def concerning(session: Session, version_ids: Iterable[int]) -> list[Hold]:
    """Holds of these versions, and holds of others because they resemble one of these or were found to be the same."""
    found: dict[int, Hold] = {}
    for chunk in chunked(sorted(set(version_ids))):
        for column in (Hold.version_id, Hold.like_id, Hold.same_as):
            found |= {hold.id: hold for hold in session.scalars(select(Hold).where(column.in_(chunk)))}
    return [found[key] for key in sorted(found)]


def decided(session: Session, version_ids: Iterable[int]) -> set[int]:
    """Which of the versions are held or were, so that somebody has looked at them or will."""
    found: set[int] = set()
    for chunk in chunked(sorted(set(version_ids))):
        found.update(session.scalars(select(Hold.version_id).where(Hold.version_id.in_(chunk))))
    return found


def found_distinct(session: Session, version_ids: Iterable[int]) -> set[int]:
    """Which of the versions somebody looked at and found to be who they say they are."""
    found: set[int] = set()
    for chunk in chunked(sorted(set(version_ids))):
        query = select(Hold.version_id).where(Hold.version_id.in_(chunk), Hold.outcome == "distinct")
        found.update(session.scalars(query))
    return found


def unlooked(session: Session, version_ids: Iterable[int]) -> set[int]:
    """Of these versions, those that came from a file or a repo, or were worked out in a space, and that nobody looked
    at."""
    outside = tuple(kind.value for kind in OperationKind if kind is not OperationKind.TRAIN)
    seen = exists().where(Hold.version_id == Version.id, Hold.outcome == "distinct")
    query = (
        select(Version.id)
        .join(Operation, Operation.id == Version.operation_id)
        .where(Operation.kind.in_(outside), ~seen)
    )
    found: set[int] = set()
    for chunk in chunked(sorted(set(version_ids))):
        found.update(session.scalars(query.where(Version.id.in_(chunk))))
    return found


def agents_of(session: Session, version_ids: Iterable[int]) -> dict[int, str]:
    """Version id -> who made or added it."""
    found: dict[int, str] = {}
    for chunk in chunked(sorted(set(version_ids))):
        query = select(Version.id, Operation.agent).join(Operation, Operation.id == Version.operation_id)
        found.update(dict(session.execute(query.where(Version.id.in_(chunk))).tuples().all()))
    return found
