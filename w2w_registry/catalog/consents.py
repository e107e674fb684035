"""Subjects, their consent records and withdrawals, as rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Identity, Version, VersionSubject
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.subjects import (
    ConsentEvent,
    ConsentEventType,
    ConsentRecord,
    GuardReference,
    Subject,
    SubjectState,
    Withdrawal,
)
from w2w_registry.records import IdentityRef, VersionState


class RecordRows(NamedTuple):
    """A subject's records and their events, each oldest first."""

    records: list[ConsentRecord]
    events: list[ConsentEvent]


def records_of(session: Session, subjects: Iterable[str], *, events: bool = True) -> RecordRows:
    """The records of these subjects, superseded ones included, with their events when asked."""
    found = RecordRows([], [])
    for chunk in chunked(sorted(set(subjects))):
        records = select(ConsentRecord).where(ConsentRecord.subject_id.in_(chunk))
        found.records.extend(session.scalars(records.order_by(ConsentRecord.created, ConsentRecord.id)))
        if events:
            happened = select(ConsentEvent).where(ConsentEvent.subject_id.in_(chunk))
            found.events.extend(session.scalars(happened.order_by(ConsentEvent.id)))
    return found


class No(NamedTuple):
    """When a subject said no, or less than before, and in what words to tell it."""

    at: datetime
    what: str


_NO = {
    ConsentEventType.WITHDRAW: "withdrew",
    ConsentEventType.INVALIDATE: "was found never to have agreed",
    ConsentEventType.NARROW: "narrowed what they had granted",
}


def last_no(session: Session, subject: str) -> No | None:
    """The last time that a subject took back or narrowed a consent, or asked for protection; None: they never did.

    It outlives an erasure and the forgetting of their likeness: it is a pseudonym and a time.
    """
    withdrawn = session.scalar(select(func.max(Withdrawal.started)).where(Withdrawal.subject_id == subject))
    found = [No(withdrawn, "withdrew")] if withdrawn is not None else []
    happened = select(ConsentEvent.type, func.max(ConsentEvent.at)).where(
        ConsentEvent.subject_id == subject, ConsentEvent.type.in_(tuple(_NO))
    )
    found += [No(at, _NO[kind]) for kind, at in session.execute(happened.group_by(ConsentEvent.type)).tuples()]
    protected = (
        select(func.max(GuardReference.created))
        .join(Subject, Subject.id == GuardReference.subject_id)
        .where(GuardReference.subject_id == subject, Subject.state == SubjectState.PROTECTED)
    )
    if (at := session.scalar(protected)) is not None:
        found.append(No(at, "asked to be protected"))
    return max(found, default=None)


def evidence_given(session: Session, digest: str) -> list[datetime]:
    """When consents, of whomever, were granted on evidence with this SHA-256."""
    granted = ConsentEvent.type == ConsentEventType.GRANT
    query = select(ConsentEvent.at).join(ConsentRecord, ConsentRecord.id == ConsentEvent.record_id)
    return list(session.scalars(query.where(ConsentRecord.evidence_digest == digest, granted)))


def any_record(session: Session, ids: Sequence[str]) -> ConsentRecord | None:
    """One of the records with these ids that is here."""
    return session.scalars(select(ConsentRecord).where(ConsentRecord.id.in_(ids)).limit(1)).first()


def subjects_in_order(session: Session, after: str | None = None, limit: int | None = None) -> list[Subject]:
    """Subjects by id: all of them, or at most ``limit`` of those after one."""
    query = select(Subject).order_by(Subject.id).limit(limit)
    return list(session.scalars(query if after is None else query.where(Subject.id > after)))


def refusing(session: Session, subjects: Iterable[str]) -> set[str]:
    """Of these subjects, those who withdrew or are protected, whether or not they ever gave a record."""
    return {
        subject
        for chunk in chunked(subjects)
        for subject in session.scalars(
            select(Subject.id).where(Subject.id.in_(chunk), Subject.state != SubjectState.ACTIVE)
        )
    }


def version_counts(session: Session, subjects: Iterable[str] | None = None) -> dict[str, int]:
    """Subject -> how many versions name it; of all subjects, or of these."""
    query = select(VersionSubject.subject_id, func.count()).group_by(VersionSubject.subject_id)
    if subjects is None:
        return dict(session.execute(query).tuples().all())
    found: dict[str, int] = {}
    for chunk in chunked(subjects):
        found.update(session.execute(query.where(VersionSubject.subject_id.in_(chunk))).tuples().all())
    return found


def versions_naming(session: Session, subject: str) -> list[tuple[str, VersionState]]:
    """Reference and state of every version that names a subject, oldest first."""
    rows = session.execute(
        select(Identity.name, Version.number, Version.state)
        .join(Version, Version.identity_id == Identity.id)
        .join(VersionSubject, VersionSubject.version_id == Version.id)
        .where(VersionSubject.subject_id == subject)
        .order_by(Version.id)
    )
    return [(str(IdentityRef(name, number)), state) for name, number, state in rows]


def withdrawals_of(session: Session, subject: str) -> list[Withdrawal]:
    """A subject's withdrawals, oldest first."""
    query = select(Withdrawal).where(Withdrawal.subject_id == subject)
    return list(session.scalars(query.order_by(Withdrawal.started)))


def unfinished_withdrawals(session: Session, subject: str | None = None) -> list[str]:
    """Ids of withdrawals that were begun and not finished, oldest first."""
    query = select(Withdrawal.id).where(Withdrawal.finished.is_(None)).order_by(Withdrawal.started)
    if subject is not None:
        query = query.where(Withdrawal.subject_id == subject)
    return list(session.scalars(query))


def furthest_withdrawal(session: Session, subject: str) -> Withdrawal | None:
    """The withdrawal that went furthest (erasing before blocking), the last of those."""
    query = select(Withdrawal).where(Withdrawal.subject_id == subject)
    return session.scalar(query.order_by(Withdrawal.erase.desc(), Withdrawal.started.desc()).limit(1))


def reference_count(session: Session, subject: str) -> int:
    """How many do-not-recreate references of a subject are kept."""
    query = select(func.count()).select_from(GuardReference).where(GuardReference.subject_id == subject)
    return session.scalar(query) or 0
