"""Consent rows ↔ consent records: the one place that knows how a record lies in the catalog.

A row is not edited. Narrowing or renewing writes a new row that supersedes the old one; the old one's state becomes
``expired`` so that nothing that looks at rows alone takes it for live. A dispute is state ``unknown``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.consents import records_of
from w2w_registry.catalog.models import ConsentEvent as EventRow
from w2w_registry.catalog.models import ConsentEventType
from w2w_registry.catalog.models import ConsentRecord as RecordRow
from w2w_registry.catalog.refusals import perhaps_refusing
from w2w_registry.catalog.resolve import subject_by_id
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.policy import has_ended
from w2w_registry.consent.records import ConsentEvent, ConsentRecord, Notice, Scope, Status, Use
from w2w_registry.errors import NotFound
from w2w_registry.records import ConsentState
from w2w_registry.services.registry import present

_STATE: Mapping[Status, ConsentState] = {
    Status.REQUESTED: ConsentState.REQUESTED,
    Status.GIVEN: ConsentState.GRANTED,
    Status.EXPIRED: ConsentState.EXPIRED,
    Status.DISPUTED: ConsentState.UNKNOWN,
    Status.WITHDRAWN: ConsentState.WITHDRAWN,
    Status.INVALIDATED: ConsentState.INVALIDATED,
}
_STATUS = {state: status for status, state in _STATE.items()}
_NOTICE = tuple(one.name for one in fields(Notice))
_GIVEN = ("guardian", "compensation", "training_set_digest", "evidence_digest", "signature")
"""Fields of a record's notice, and of the record itself, whose columns have their names."""
_SCOPE = {
    "purposes": "purposes",
    "uses": "allowed_uses",
    "forbidden": "forbidden_uses",
    "derivatives": "derivatives",
    "publication": "publication",
    "territory": "territories",
    "valid_from": "granted_at",
    "expires_at": "expires_at",
}
"""Fields of a record's scope, and the columns they lie in."""


def load_records(
    session: Session,
    subjects: Iterable[str],
    *,
    history: bool = True,
    states: Sequence[ConsentState] | None = None,
    at: datetime | None = None,
    superseded: bool = False,
) -> dict[str, tuple[ConsentRecord, ...]]:
    """The records of each subject that no later one supersedes, oldest first; subjects without any are left out.

    Args:
        history: load each record's events too (digests need them; states do not).
        states: only records in these states.
        at: as they were then: what was written since is left out.
        superseded: those that a later one supersedes as well.
    """
    rows, happened = records_of(session, subjects, events=history or at is not None)
    if at is not None:
        rows, happened = [r for r in rows if r.created <= at], [e for e in happened if e.at <= at]
    old = set() if superseded else {row.supersedes for row in rows if row.supersedes is not None}
    events = _events(happened)
    by_id = {row.id: row for row in rows}
    found: dict[str, list[ConsentRecord]] = {}
    for row in rows:
        if row.id not in old and (states is None or row.state in states):
            record = _record(row, _history(row, by_id, events))
            found.setdefault(row.subject_id, []).append(record if at is None else _as_it_was(record))
    return {subject: tuple(records) for subject, records in found.items()}


def stopped(session: Session) -> set[str]:
    """Subjects whose consent is over, contested, or was never given, as of now."""
    at = present(session)
    perhaps = perhaps_refusing(session, at)
    records = load_records(session, perhaps, history=False)
    return {s for s in perhaps if s not in records or has_ended(records[s], at)}


def _as_it_was(record: ConsentRecord) -> ConsentRecord:
    """A record in the state of its last event. A request's scope is what was granted, where it has been since."""
    status = record.events[-1].status
    if status is not Status.REQUESTED:
        return replace(record, status=status)
    scope = replace(record.scope, valid_from=None)
    return replace(record, status=status, scope=scope, evidence_digest=None, signature=None)


def records_of_subject(session: Session, subject: str, *, at: datetime | None = None) -> tuple[ConsentRecord, ...]:
    """A subject's records that no later one supersedes (``at``: had by then), oldest first. Raises NotFound: no such
    subject."""
    known = subject_by_id(session, subject).id
    return load_records(session, [known], at=at).get(known, ())


def record_named(session: Session, subject: str, record_id: str) -> ConsentRecord:
    """The record of that id. Raises NotFound: no such subject, or none of theirs."""
    for record in records_of_subject(session, subject):
        if record.record_id == record_id:
            return record
    raise NotFound(what="consent record", name=record_id)


def insert_record(uow: UnitOfWork, record: ConsentRecord, *, evidence_stored: bool = False) -> None:
    """Write a new record with its last event; a record that supersedes another puts that one out of force."""
    if record.supersedes is not None:
        old = uow.session.get_one(RecordRow, record.supersedes)
        old.state = ConsentState.EXPIRED
        evidence_stored = old.evidence_stored
    uow.add(
        RecordRow(
            id=record.record_id,
            subject_id=record.subject,
            supersedes=record.supersedes,
            state=_STATE[record.status],
            schema_version=record.schema_version,
            **{name: _stored(getattr(record.notice, name)) for name in _NOTICE},
            created=record.events[-1].at,
            **_given(record, evidence_stored),
        )
    )
    _add_event(uow, record)


def move_record(uow: UnitOfWork, record: ConsentRecord) -> None:
    """Write the last event of a record that is in the catalog, and the state it moved to."""
    row = uow.session.get_one(RecordRow, record.record_id)
    if row.state is not _STATE[record.status]:
        row.state = _STATE[record.status]
    _add_event(uow, record)


def grant_request(uow: UnitOfWork, record: ConsentRecord, *, evidence_stored: bool = False) -> None:
    """Fill a request's row with what was granted, and move it on."""
    row = uow.session.get_one(RecordRow, record.record_id)
    for column, value in _given(record, evidence_stored).items():
        setattr(row, column, value)
    move_record(uow, record)


def _given(record: ConsentRecord, evidence_stored: bool) -> dict[str, Any]:
    """The columns that say what was given, by whom and on what evidence."""
    return {
        **{column: _stored(getattr(record.scope, name)) for name, column in _SCOPE.items()},
        **{name: getattr(record, name) for name in _GIVEN},
        "evidence_stored": evidence_stored,
    }


def journal(uow: UnitOfWork, action: str, record: ConsentRecord, **payload: Any) -> None:
    """The event of one record's change."""
    uow.event(action, {"subject": record.subject, "record": record.record_id}, digest=record.digest(), **payload)


def new_id() -> str:
    """An id for a record."""
    return str(uuid.uuid4())


def _add_event(uow: UnitOfWork, record: ConsentRecord) -> None:
    event = record.events[-1]
    details: dict[str, Any] = {}
    if event.until is not None:
        details["until"] = event.until
    if event.note_digest is not None:
        details["note_digest"] = event.note_digest
    uow.add(
        EventRow(
            record_id=record.record_id,
            subject_id=record.subject,
            type=ConsentEventType(event.kind),
            state=_STATE[event.status],
            at=event.at,
            duration=None if event.until is None else f"P{(event.until - event.at).days}D",
            entity=event.entity,
            method=event.method,
            details=details,
        )
    )


def _events(rows: Iterable[EventRow]) -> dict[str, list[ConsentEvent]]:
    found: dict[str, list[ConsentEvent]] = {}
    for row in rows:
        if row.record_id is None or row.state is None:
            continue
        until = row.details.get("until")
        event = ConsentEvent(
            kind=row.type.value,
            status=_STATUS[row.state],
            at=row.at,
            entity=row.entity,
            method=row.method or "",
            until=None if until is None else datetime.fromisoformat(until),
            note_digest=row.details.get("note_digest"),
        )
        found.setdefault(row.record_id, []).append(event)
    return found


def _history(
    row: RecordRow, by_id: Mapping[str, RecordRow], events: Mapping[str, list[ConsentEvent]]
) -> tuple[ConsentEvent, ...]:
    chain: list[str] = []
    at: RecordRow | None = row
    while at is not None:
        chain.append(at.id)
        at = by_id.get(at.supersedes) if at.supersedes is not None else None
    return tuple(event for record_id in reversed(chain) for event in events.get(record_id, ()))


def _record(row: RecordRow, events: tuple[ConsentEvent, ...]) -> ConsentRecord:
    return ConsentRecord(
        record_id=row.id,
        subject=row.subject_id,
        status=_STATUS[row.state],
        scope=replace(
            Scope(**{name: _read(getattr(row, column)) for name, column in _SCOPE.items()}),
            uses=None if row.allowed_uses is None else tuple(Use(u) for u in row.allowed_uses),
            forbidden=tuple(row.forbidden_uses or ()),
        ),
        notice=Notice(**{name: _read(getattr(row, name)) for name in _NOTICE}),
        **{name: getattr(row, name) for name in _GIVEN},
        events=events,
        supersedes=row.supersedes,
        schema_version=row.schema_version,
    )


def _stored(value: Any) -> Any:
    """A record's value as its column holds it."""
    return [str(item) for item in value] if isinstance(value, tuple) else value


def _read(value: Any) -> Any:
    """A column's value as a record holds it."""
    return tuple(value) if isinstance(value, list) else value
