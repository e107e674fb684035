"""Subjects, what they agreed to, and what follows when they take it back."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Boolean, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from w2w_registry.catalog.base import Base, Salted, autoincrement
from w2w_registry.catalog.types import BigInt, Hex, Json, Number, UtcDateTime, Words, choice
from w2w_registry.records import ConsentState


class SubjectState(StrEnum):
    """``protected``: never registered, asks not to be recreated; ``erased``: only the tombstone is left."""

    ACTIVE = "active"
    WITHDRAWN = "withdrawn"
    PROTECTED = "protected"
    ERASED = "erased"


class ConsentEventType(StrEnum):
    """What can happen to a consent record (ISO/IEC TS 27560 event types, and the likeness ones)."""

    REQUEST = "request"
    GRANT = "grant"
    NARROW = "narrow"
    RENEW = "renew"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    INVALIDATE = "invalidate"
    RECEIPT = "receipt"
    ACCESS = "access"
    DISPUTE = "dispute"


class Subject(Base):
    """A person or rights holder under a pseudonymous id. Nothing here says who it is."""

    __tablename__ = "subject"

    id: Mapped[str] = mapped_column(Words, primary_key=True)
    kind: Mapped[str] = mapped_column(Words)
    state: Mapped[SubjectState] = mapped_column(choice(SubjectState, "state"), default=SubjectState.ACTIVE)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    erased: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ConsentRecord(Salted, Base):
    """What a subject granted (ISO/IEC TS 27560 fields, then the likeness fields).

    A record is not edited: narrowing or renewing writes a new one that ``supersedes`` it; only ``state`` moves, each
    time with a ``ConsentEvent``, and erasure blanks what is personal. In lists ``None`` means not stated, ``[]`` none.
    """

    __tablename__ = "consent_record"
    __table_args__ = (
        Index("ix_consent_record_subject_id", "subject_id"),
        Index("ix_consent_record_expires_at", "expires_at"),
        Index("ix_consent_record_supersedes", "supersedes"),
        Index("ix_consent_record_evidence_digest", "evidence_digest"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    subject_id: Mapped[str] = mapped_column(ForeignKey("subject.id"))
    supersedes: Mapped[str | None] = mapped_column(ForeignKey("consent_record.id"))
    state: Mapped[ConsentState] = mapped_column(choice(ConsentState, "state"))
    schema_version: Mapped[str] = mapped_column(Words)
    notice: Mapped[str | None] = mapped_column(Words)
    language: Mapped[str | None] = mapped_column(Words)
    purposes: Mapped[list[str]] = mapped_column(Json, default=list)
    data_types: Mapped[list[str] | None] = mapped_column(Json)
    controllers: Mapped[list[Any] | None] = mapped_column(Json)
    recipients: Mapped[list[Any] | None] = mapped_column(Json)
    storage_location: Mapped[str | None] = mapped_column(Words)
    retention: Mapped[str | None] = mapped_column(Words)
    jurisdiction: Mapped[str | None] = mapped_column(Words)
    withdrawal_method: Mapped[str | None] = mapped_column(Words)
    derivatives: Mapped[bool] = mapped_column(Boolean, default=False)
    publication: Mapped[bool] = mapped_column(Boolean, default=False)
    territories: Mapped[list[str] | None] = mapped_column(Json)
    allowed_uses: Mapped[list[str] | None] = mapped_column(Json)
    forbidden_uses: Mapped[list[str] | None] = mapped_column(Json)
    guardian: Mapped[str | None] = mapped_column(Words)
    compensation: Mapped[str | None] = mapped_column(Words)
    training_set_digest: Mapped[str | None] = mapped_column(Hex)
    evidence_digest: Mapped[str | None] = mapped_column(Hex)
    evidence_stored: Mapped[bool] = mapped_column(Boolean, default=False)
    signature: Mapped[str | None] = mapped_column(Words)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    granted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ConsentEvent(Salted, Base):
    """Something that happened to a record, or about a subject (access, dispute) without one.

    ``state``: the record's state from then on, when it moved. ``entity``: who acted, as a role or pseudonymous id.
    ``duration``: ISO 8601. ``details``: no personal data.
    """

    __tablename__ = "consent_event"
    __table_args__ = (
        Index("ix_consent_event_record_id", "record_id"),
        Index("ix_consent_event_subject_id", "subject_id"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    record_id: Mapped[str | None] = mapped_column(ForeignKey("consent_record.id"))
    subject_id: Mapped[str] = mapped_column(ForeignKey("subject.id"))
    type: Mapped[ConsentEventType] = mapped_column(choice(ConsentEventType, "type"))
    state: Mapped[ConsentState | None] = mapped_column(choice(ConsentState, "state"))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    duration: Mapped[str | None] = mapped_column(Words)
    entity: Mapped[str] = mapped_column(Words)
    method: Mapped[str | None] = mapped_column(Words)
    details: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)


class Withdrawal(Base):
    """One withdrawal being carried out: ``plan`` is fixed at the start, ``phase`` says how far it got.

    ``plan`` and ``receipt`` hold ids and digests only, so that they may outlive the subject's data.
    """

    __tablename__ = "withdrawal"
    __table_args__ = (Index("ix_withdrawal_subject_id", "subject_id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    subject_id: Mapped[str] = mapped_column(ForeignKey("subject.id"))
    plan: Mapped[dict[str, Any]] = mapped_column(Json)
    erase: Mapped[bool] = mapped_column(Boolean)
    phase: Mapped[str] = mapped_column(Words)
    started: Mapped[datetime] = mapped_column(UtcDateTime)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime)
    receipt: Mapped[dict[str, Any] | None] = mapped_column(Json)


class GuardReference(Base):
    """What is kept of a likeness that refused, of its coordinates in one space or of its weights sketch (``space_id``
    None): ``reference`` is made with ``salt`` and the door's key, whose id ``kind`` ends in."""

    __tablename__ = "guard_reference"
    __table_args__ = (
        Index("ix_guard_reference_subject_id", "subject_id"),
        Index("ix_guard_reference_space_id", "space_id"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    subject_id: Mapped[str] = mapped_column(ForeignKey("subject.id"))
    space_id: Mapped[int | None] = mapped_column(ForeignKey("space.id"))
    kind: Mapped[str] = mapped_column(Words)
    salt: Mapped[bytes] = mapped_column(LargeBinary)
    reference: Mapped[bytes] = mapped_column(LargeBinary)
    threshold: Mapped[float] = mapped_column(Number)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
