"""Subjects: the people and rights holders identities depict, under pseudonymous ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from w2w_registry.catalog.consents import (
    reference_count,
    subjects_in_order,
    version_counts,
    versions_naming,
    withdrawals_of,
)
from w2w_registry.catalog.holdings import references
from w2w_registry.catalog.models import GuardReference, Subject
from w2w_registry.catalog.refusals import AGREED
from w2w_registry.catalog.resolve import subject_by_id
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.policy import subject_state
from w2w_registry.consent.records import to_json
from w2w_registry.records import Result, composed
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.services.registry import Registry, present

NAME_WARNING = "{} looks like a name, and subject ids stay in the audit log forever, even after erasure"


@dataclass(frozen=True, eq=False)
class SubjectAdded(Result):
    """A subject as registered; ``created``: it was not there before."""

    subject: str
    kind: str
    state: str
    created: bool
    warnings: list[str]


def add_subject(registry: Registry, subject_id: str, *, kind: str = "person") -> SubjectAdded:
    """Register a subject; one that is there is left as it is. ``warnings`` says when the id looks like a name.

    Raises:
        BadName: an id that breaks the naming rules.
    """
    subject_id = composed(subject_id)
    warnings = [NAME_WARNING.format(subject_id)] if looks_like_a_name(subject_id) else []
    with registry.catalog.write(registry.actor) as uow:
        created = ensure_subject(uow, subject_id, kind=kind)
        row = uow.session.get_one(Subject, subject_id)
        return SubjectAdded(
            subject=row.id,
            kind=row.kind,
            state=row.state.value,
            created=created,
            warnings=warnings,
        )


@dataclass(frozen=True, eq=False)
class SubjectRow(Result):
    """A subject, its consent in one word, and how many versions name it."""

    subject: str
    kind: str
    state: str
    consent: str
    records: int
    versions: int
    created: datetime


def list_subjects(registry: Registry, *, after: str | None = None, limit: int | None = None) -> list[SubjectRow]:
    """Subjects by id with their state, their consent in one word, and how many versions name them: all, or at most
    ``limit`` of those whose ids come after ``after``."""
    with registry.catalog.read() as session:
        at, rows = present(session), subjects_in_order(session, after, limit)
        ids = [row.id for row in rows]
        records = load_records(session, ids, history=False)
        counts = version_counts(session, None if limit is None else ids)
    return [
        SubjectRow(
            subject=row.id,
            kind=row.kind,
            state=row.state.value,
            consent=subject_state(records.get(row.id, ()), at).value,
            records=len(records.get(row.id, ())),
            versions=counts.get(row.id, 0),
            created=row.created,
        )
        for row in rows
    ]


@dataclass(frozen=True, eq=False)
class NamedBy(Result):
    """A version that names the subject, and its state."""

    version: str
    state: str


@dataclass(frozen=True, eq=False)
class WithdrawalRow(Result):
    """A withdrawal of the subject's; ``finished`` is None until every step is done."""

    id: str
    started: datetime
    finished: datetime | None
    erase: bool


@dataclass(frozen=True, eq=False)
class SubjectShown(Result):
    """All that is known of a subject. ``records``: each as it is stored, with its digest. ``do_not_recreate``:
    references that are kept of the likeness."""

    subject: str
    kind: str
    state: str
    consent: str
    created: datetime
    erased: datetime | None
    records: list[dict[str, Any]]
    versions: list[NamedBy]
    withdrawals: list[WithdrawalRow]
    do_not_recreate: int


def show_subject(registry: Registry, subject_id: str) -> SubjectShown:
    """One subject: its records in full, the versions that name it, withdrawals, do-not-recreate references.

    Raises:
        NotFound.
    """
    with registry.catalog.read() as session:
        row = subject_by_id(session, subject_id)
        subject_id = row.id
        records = load_records(session, [subject_id]).get(subject_id, ())
        return SubjectShown(
            subject=row.id,
            kind=row.kind,
            state=row.state.value,
            consent=subject_state(records, present(session)).value,
            created=row.created,
            erased=row.erased,
            records=[{**to_json(record), "digest": record.digest()} for record in records],
            versions=[NamedBy(ref, state.value) for ref, state in versions_naming(session, subject_id)],
            withdrawals=[
                WithdrawalRow(w.id, w.started, w.finished, w.erase) for w in withdrawals_of(session, subject_id)
            ],
            do_not_recreate=reference_count(session, subject_id),
        )


def set_at_rest(uow: UnitOfWork, subject_id: str) -> None:
    """Keep a subject's references, as agreeing again asks where nothing else is left of them: they refuse nobody."""
    for row in references(uow.session, subject_id):
        if "/" not in row.kind:  # made before the door had a key
            uow.delete(row)
        elif not row.kind.endswith(AGREED):
            row.kind += AGREED
    uow.session.flush()


def wake(uow: UnitOfWork, subject_id: str) -> None:
    """Let a subject's references refuse again."""
    for row in references(uow.session, subject_id):
        row.kind = row.kind.removesuffix(AGREED)
    uow.session.flush()


def unprotect(uow: UnitOfWork, subject_id: str) -> int:
    """Forget a subject's references, as a new consent asks; returns how many there were."""
    keys = uow.keys(GuardReference, GuardReference.subject_id == subject_id)
    return uow.bulk_delete(GuardReference, keys)


_ROLES = frozenset(
    """subject person people donor actor actress model talent client customer user member participant player patient
    voice face faces holder owner brand estate guardian test demo anon anonymous pseudonym team project shoot cast
    num number case ref rec part item group batch unit one two the and for""".split()  # noqa: SIM905
)
_WORD = re.compile(r"[^\W\d_]+")
_HEX = re.compile(r"[0-9a-f]{6,}|[0-9a-f-]{32,}", re.IGNORECASE)


def looks_like_a_name(subject_id: str) -> bool:
    """Whether an id looks like a name or an address rather than a pseudonym.

    A guess, for a warning: a word of three letters or more that is no role ("subject", "donor") and no hexadecimal
    number may be a name; ``s-17``, ``donor-0042`` and ``9f3c2a`` are not.
    """
    if "@" in subject_id:
        return True
    rest = _HEX.sub(" ", subject_id) if any(c.isdigit() for c in subject_id) else subject_id
    return any(len(word) >= 3 and word.casefold() not in _ROLES for word in _WORD.findall(rest))
