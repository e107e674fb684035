"""What changes a consent that was given: narrowing, renewal, dispute. Each is one transaction with its event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from w2w_registry.commands import command
from w2w_registry.consent import lifecycle
from w2w_registry.consent.records import ConsentRecord, Scope, Status
from w2w_registry.errors import Conflict
from w2w_registry.records import digest_of, iso
from w2w_registry.services.consent.rows import (
    insert_record,
    journal,
    move_record,
    new_id,
    record_named,
    records_of_subject,
)
from w2w_registry.services.consent.scopes import unknown_words, warnings_about
from w2w_registry.services.consent.second_person import DECIDED, said_by_two
from w2w_registry.services.consent.showing import RecordChanged, RecordShown, describe
from w2w_registry.services.registry import Registry, present

_Check = Callable[[Session, ConsentRecord, datetime], dict[str, str]]
"""What has to hold before a record is changed; what the event says of it."""


def _unchecked(session: Session, record: ConsentRecord, at: datetime) -> dict[str, str]:
    """Nothing has to."""
    return {}


def narrow(
    registry: Registry, subject: str, change: Callable[[Scope], Scope], *, record_id: str | None = None
) -> RecordChanged:
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

    narrower = _change(
        registry,
        subject,
        record_id,
        "consent.narrow",
        {Status.GIVEN},
        lambda old, at: lifecycle.narrow(old, new_id(), checked(old.scope), at, registry.actor),
    )
    return RecordChanged(**narrower, warnings=warnings_about(strange))


def renew(
    registry: Registry, subject: str, expires_at: datetime | None, *, record_id: str | None = None
) -> RecordShown:
    """Replace a live or expired record by one with a longer term; None = until withdrawn. Of an expired one two people
    say so: whoever's consent has run out refuses.

    Raises:
        NotFound, Conflict, UsageError: as ``lifecycle.renew``. SecondPersonNeeded.
    """

    def by_two(session: Session, old: ConsentRecord, at: datetime) -> dict[str, str]:
        if old.status_at(at) is not Status.EXPIRED:
            return {}
        decided = said_by_two(
            registry,
            session,
            digest_of(["renew", old.digest(), None if expires_at is None else iso(expires_at)]),
            f"renew the consent of {subject}, which is over",
            command("consent renew", subject, "…"),
            hint=f"or record what they say now with `{command('consent grant')}` and [[evidence]]",
        )
        return {DECIDED: decided}

    return _change(
        registry,
        subject,
        record_id,
        "consent.renew",
        {Status.GIVEN, Status.EXPIRED},
        lambda old, at: lifecycle.renew(old, new_id(), expires_at, at, registry.actor),
        by_two,
    )


def dispute(registry: Registry, subject: str, *, record_id: str | None = None) -> RecordShown:
    """Suspend a record that somebody contests: until it is resolved nothing is allowed on its strength."""
    return _change(
        registry,
        subject,
        record_id,
        "consent.dispute",
        {Status.GIVEN},
        lambda record, at: lifecycle.dispute(record, at, registry.actor),
    )


def resolve(registry: Registry, subject: str, *, upheld: bool, record_id: str | None = None) -> RecordShown:
    """End a dispute: the consent stands again, which two people say, or is invalidated.

    Raises:
        NotFound, Conflict: nothing is disputed, or several records are. SecondPersonNeeded.
    """

    def by_two(session: Session, record: ConsentRecord, at: datetime) -> dict[str, str]:
        if not upheld or record.status is not Status.DISPUTED:
            return {}
        decided = said_by_two(
            registry,
            session,
            digest_of(["resolve", record.digest()]),
            f"say that the consent of {subject}, which is disputed, stands",
            command("consent resolve", subject, upheld=True),
        )
        return {DECIDED: decided}

    return _change(
        registry,
        subject,
        record_id,
        "consent.resolve",
        {Status.DISPUTED},
        lambda record, at: lifecycle.resolve(record, upheld, at, registry.actor),
        by_two,
    )


def _change(
    registry: Registry,
    subject: str,
    record_id: str | None,
    action: str,
    among: set[Status],
    change: Callable[[ConsentRecord, datetime], ConsentRecord],
    check: _Check = _unchecked,
) -> RecordShown:
    """Let the record meant be what ``change`` makes of it: itself in another state, or a new one that supersedes it."""
    with registry.catalog.write(registry.actor) as uow:
        at = present(uow.session)
        old = _pick(uow.session, subject, record_id, among, at)
        told = check(uow.session, old, at)
        record = change(old, uow.now())
        if record.record_id == old.record_id:
            move_record(uow, record)
        else:
            insert_record(uow, record)
            told = {**told, "supersedes": old.record_id}
        journal(uow, action, record, **told)
    return describe(record, at)


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
