"""What may happen to a consent record: a state machine that returns the record after the change.

request → grant → narrow / renew → withdraw / invalidate, with disputes beside them. What was granted is
never edited: narrowing and renewing make a record that supersedes the old one. Receipts and accesses change no
state and are kept as events all the same (TS 27560 keeps the history inside the record).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from w2w_registry.commands import command
from w2w_registry.consent.records import ConsentEvent, ConsentRecord, Notice, Scope, Status
from w2w_registry.errors import Conflict, UsageError

_FROM: Mapping[str, frozenset[Status]] = {
    "grant": frozenset({Status.REQUESTED}),
    "narrow": frozenset({Status.GIVEN}),
    "renew": frozenset({Status.GIVEN, Status.EXPIRED}),
    "dispute": frozenset({Status.GIVEN}),
    "withdraw": frozenset({Status.REQUESTED, Status.GIVEN, Status.EXPIRED, Status.DISPUTED}),
    "invalidate": frozenset(Status) - {Status.INVALIDATED},
    "receipt": frozenset(Status),
    "access": frozenset(Status),
}


def request(
    record_id: str, subject: str, scope: Scope, now: datetime, by: str, *, notice: Notice | None = None
) -> ConsentRecord:
    """A new record that asks, and allows nothing yet.

    Raises:
        UsageError: a scope that grants nothing, or is over before it begins.
    """
    check_scope(scope)
    event = ConsentEvent("request", Status.REQUESTED, now, by)
    return ConsentRecord(record_id, subject, Status.REQUESTED, scope, notice or Notice(), events=(event,))


def grant(
    record: ConsentRecord,
    now: datetime,
    by: str,
    *,
    scope: Scope | None = None,
    method: str = "command line",
    guardian: str | None = None,
    compensation: str | None = None,
    evidence_digest: str | None = None,
    signature: str | None = None,
    training_set_digest: str | None = None,
) -> ConsentRecord:
    """Turn a request into a consent; ``scope`` when what was given differs from what was asked. It begins now
    unless the scope names a later day.

    Raises:
        Conflict: the record is not a request. UsageError: as ``request``, or a term that is already over.
    """
    given = scope or record.scope
    check_scope(given)
    if given.expires_at is not None and given.expires_at <= now:
        raise UsageError(reason=f"the consent would be over before it is given ({given.expires_at:%Y-%m-%d})")
    changed = replace(
        record,
        scope=replace(given, valid_from=given.valid_from or now),
        guardian=guardian,
        compensation=compensation,
        evidence_digest=evidence_digest,
        signature=signature,
        training_set_digest=training_set_digest,
    )
    return _move(changed, "grant", Status.GIVEN, now, by, method=method, until=given.expires_at)


def narrow(record: ConsentRecord, record_id: str, scope: Scope, now: datetime, by: str) -> ConsentRecord:
    """The record, under a new id, with a smaller scope instead.

    Raises:
        Conflict: the record is not live. UsageError: the new scope grants something the old one does not.
    """
    if not scope.within(record.scope):
        raise UsageError(reason="the new scope is not within the old one", hint="a wider consent is a new grant")
    _require_live(record, now, "narrow")
    return _move(_superseding(record, record_id, scope), "narrow", Status.GIVEN, now, by, until=scope.expires_at)


def renew(record: ConsentRecord, record_id: str, expires_at: datetime | None, now: datetime, by: str) -> ConsentRecord:
    """The record, under a new id, with a longer term, also when it has run out; never when it was taken back.

    Raises:
        Conflict: withdrawn, invalidated, disputed or only requested. UsageError: the new term is over, or shorter.
    """
    if expires_at is not None:
        if expires_at <= now:
            raise UsageError(reason=f"the new term is over already ({expires_at:%Y-%m-%d})")
        if record.scope.expires_at is None or expires_at < record.scope.expires_at:
            cure = command("consent narrow", record.subject, expires="DATE")
            raise UsageError(reason="the new term is shorter than the old one", hint=f"`{cure}` shortens it")
    scope = replace(record.scope, expires_at=expires_at)
    return _move(_superseding(record, record_id, scope), "renew", Status.GIVEN, now, by, until=expires_at)


def withdraw(record: ConsentRecord, now: datetime, by: str, *, method: str = "command line") -> ConsentRecord:
    """Take a consent (or the request for it) back. Withdrawing twice returns the record unchanged.

    Raises:
        Conflict: the record was invalidated.
    """
    if record.status is Status.WITHDRAWN:
        return record
    return _move(record, "withdraw", Status.WITHDRAWN, now, by, method=method)


def invalidate(record: ConsentRecord, now: datetime, by: str, *, note_digest: str | None = None) -> ConsentRecord:
    """The consent never held (forged, coerced, given by someone who could not). Twice returns it unchanged."""
    if record.status is Status.INVALIDATED:
        return record
    return _move(record, "invalidate", Status.INVALIDATED, now, by, note_digest=note_digest)


def dispute(record: ConsentRecord, now: datetime, by: str, *, note_digest: str | None = None) -> ConsentRecord:
    """Somebody contests it: nothing is allowed on its strength until it is resolved."""
    return _move(record, "dispute", Status.DISPUTED, now, by, note_digest=note_digest)


def resolve(record: ConsentRecord, upheld: bool, now: datetime, by: str) -> ConsentRecord:
    """End a dispute: the consent stands again, or is invalidated.

    Raises:
        Conflict: the record is not disputed.
    """
    if record.status is not Status.DISPUTED:
        raise Conflict(what="consent record", name=record.record_id, reason=f"cannot resolve what is {record.status}")
    if not upheld:
        return _move(record, "invalidate", Status.INVALIDATED, now, by, method="dispute resolved")
    event = ConsentEvent("grant", Status.GIVEN, now, by, "dispute resolved", record.scope.expires_at)
    return replace(record, status=Status.GIVEN, events=(*record.events, event))


def note(record: ConsentRecord, kind: str, now: datetime, by: str) -> ConsentRecord:
    """Record that a receipt was issued (``receipt``) or the subject saw its data (``access``)."""
    if kind not in {"receipt", "access"}:
        raise UsageError(reason=f"{kind} changes a record; it is not a note")
    return _move(record, kind, record.status, now, by)


def check_scope(scope: Scope) -> None:
    """Refuse a scope that grants nothing or cannot ever be valid.

    Raises:
        UsageError: saying which.
    """
    if not scope.purposes:
        raise UsageError(reason="no purpose named", hint="name at least one: [[purpose]] research")
    if scope.uses == ():
        raise UsageError(reason="no use allowed", hint="leave the uses out to allow all that the purposes need")
    if scope.territory == ():
        raise UsageError(reason="no territory allowed", hint="leave the territory out for the whole world")
    if scope.valid_from is not None and scope.expires_at is not None and scope.expires_at <= scope.valid_from:
        raise UsageError(reason="the term ends before it begins")


def _superseding(record: ConsentRecord, record_id: str, scope: Scope) -> ConsentRecord:
    return replace(record, record_id=record_id, supersedes=record.record_id, scope=scope)


def _require_live(record: ConsentRecord, now: datetime, kind: str) -> None:
    status = record.status_at(now)
    if status is not Status.GIVEN:
        raise Conflict(what="consent record", name=record.record_id, reason=f"cannot {kind} what is {status}")


def _move(
    record: ConsentRecord,
    kind: str,
    status: Status,
    now: datetime,
    by: str,
    *,
    method: str = "command line",
    until: datetime | None = None,
    note_digest: str | None = None,
) -> ConsentRecord:
    if record.status not in _FROM[kind]:
        raise Conflict(what="consent record", name=record.record_id, reason=f"cannot {kind} what is {record.status}")
    event = ConsentEvent(kind, status, now, by, method, until, note_digest)
    return replace(record, status=status, events=(*record.events, event))
