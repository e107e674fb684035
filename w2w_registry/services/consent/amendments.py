"""What changes a consent that was given: narrowing, renewal, dispute. Each is one transaction with its event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.consent import lifecycle
from w2w_registry.consent.records import ConsentRecord, Scope, Status
from w2w_registry.errors import Conflict
from w2w_registry.records import now
from w2w_registry.services.consent.rows import (
    insert_record,
    journal,
    move_record,
    new_id,
    record_named,
    records_of_subject,
)
from w2w_registry.services.consent.showing import describe
from w2w_registry.services.consent.vocabulary import unknown_words, warnings_about
from w2w_registry.services.registry import Registry


def narrow(
    registry: Registry, subject: str, change: Callable[[Scope], Scope], *, record_id: str | None = None
) -> dict[str, Any]:
    """Replace a live record by one with a smaller scope: ``change`` makes the new scope from the old one.

    Raises:
        NotFound, Conflict (nothing live, or several records and none named), UsageError (not smaller),
        UnknownPurpose, UnknownTerritory (misspelt).
    """
    strange: list[str] = []

    def checked(old: Scope) -> Scope:
        new = change(old)
        strange.extend(unknown_words(registry, new))
        return new

    narrower = _supersede(
        registry,
        subject,
        record_id,
        "consent.narrow",
        lambda old, new_id, at: lifecycle.narrow(old, new_id, checked(old.scope), at, registry.actor),
        {Status.GIVEN},
    )
    return {**narrower, "warnings": warnings_about(strange)}


def renew(
    registry: Registry, subject: str, expires_at: datetime | None, *, record_id: str | None = None
) -> dict[str, Any]:
    """Replace a live or expired record by one with a longer term; None = until withdrawn.

    Raises:
        NotFound, Conflict, UsageError: as ``lifecycle.renew``.
    """
    return _supersede(
        registry,
        subject,
        record_id,
        "consent.renew",
        lambda old, new_id, at: lifecycle.renew(old, new_id, expires_at, at, registry.actor),
        {Status.GIVEN, Status.EXPIRED},
    )


def dispute(registry: Registry, subject: str, *, record_id: str | None = None) -> dict[str, Any]:
    """Suspend a record that somebody contests: until it is resolved nothing is allowed on its strength."""
    return _move(
        registry,
        subject,
        record_id,
        "consent.dispute",
        {Status.GIVEN},
        lambda record, at: lifecycle.dispute(record, at, registry.actor),
    )


def resolve(registry: Registry, subject: str, *, upheld: bool, record_id: str | None = None) -> dict[str, Any]:
    """End a dispute: the consent stands again, or is invalidated."""
    return _move(
        registry,
        subject,
        record_id,
        "consent.resolve",
        {Status.DISPUTED},
        lambda record, at: lifecycle.resolve(record, upheld, at, registry.actor),
    )


def _supersede(
    registry: Registry,
    subject: str,
    record_id: str | None,
    action: str,
    change: Callable[[ConsentRecord, str, datetime], ConsentRecord],
    among: set[Status],
) -> dict[str, Any]:
    with registry.catalog.write(registry.actor) as uow:
        old = _pick(uow.session, subject, record_id, among, uow.now())
        record = change(old, new_id(), uow.now())
        insert_record(uow, record)
        journal(uow, action, record, supersedes=old.record_id)
    return describe(record, now())


def _move(
    registry: Registry,
    subject: str,
    record_id: str | None,
    action: str,
    among: set[Status],
    change: Callable[[ConsentRecord, datetime], ConsentRecord],
) -> dict[str, Any]:
    with registry.catalog.write(registry.actor) as uow:
        record = change(_pick(uow.session, subject, record_id, among, uow.now()), uow.now())
        move_record(uow, record)
        journal(uow, action, record)
    return describe(record, now())


def _pick(session: Session, subject: str, record_id: str | None, among: set[Status], at: datetime) -> ConsentRecord:
    """The record meant: the one named, else the only one in one of these states."""
    if record_id is not None:
        return record_named(session, subject, record_id)
    found = [r for r in records_of_subject(session, subject) if r.status_at(at) in among]
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(sorted(among))
    if not found:
        raise Conflict(what="consent of", name=subject, reason=f"no record is {wanted}")
    names = ", ".join(r.record_id for r in found)
    raise Conflict(what="consent of", name=subject, reason=f"{len(found)} records are {wanted}; name one: {names}")
