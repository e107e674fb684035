"""Asking for consent and writing one down. What changes one afterwards is in ``amendments`` and ``withdraw``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.consents import evidence_given, last_no
from w2w_registry.catalog.depictions import depictions
from w2w_registry.catalog.events import events_touching
from w2w_registry.catalog.holds import open_holds
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Subject, SubjectState, Version
from w2w_registry.catalog.resolve import subject_by_id, subject_like
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.commands import command
from w2w_registry.consent import lifecycle
from w2w_registry.consent.policy import subject_state
from w2w_registry.consent.records import ConsentRecord, Notice, Scope, Status
from w2w_registry.files import sha256_file
from w2w_registry.records import ConsentState, VersionState, digest_of
from w2w_registry.services.consent import gate, notices, signatures
from w2w_registry.services.consent.rows import (
    grant_request,
    insert_record,
    journal,
    load_records,
    new_id,
    record_named,
)
from w2w_registry.services.consent.scopes import unknown_words, warnings_about
from w2w_registry.services.consent.second_person import DECIDED, EVIDENCE, SUBJECT, said_by_two
from w2w_registry.services.consent.showing import RecordChanged, describe
from w2w_registry.services.consent.subjects import set_at_rest, unprotect
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.services.registry import Registry, present


@dataclass(frozen=True, eq=False)
class Granted(RecordChanged):
    """A consent that was given, and the versions that are back in service."""

    restored: list[str]


def request(registry: Registry, subject: str, scope: Scope, *, notice: Notice | None = None) -> RecordChanged:
    """Write down that a consent was asked for. Adds the subject when it is not there.

    Raises:
        BadName, UsageError: a scope that can never hold. UnknownPurpose, UnknownTerritory: a misspelt one.
    """
    strange = unknown_words(registry, scope)
    notice = notices.completed(registry, notice)
    with registry.catalog.write(registry.actor) as uow:
        record = lifecycle.request(new_id(), subject, scope, uow.now(), registry.actor, notice=notice)
        ensure_subject(uow, subject)
        insert_record(uow, record)
        journal(uow, "consent.request", record)
        at = present(uow.session)
    told = [*warnings_about(strange), *notices.missing(record.notice)]
    return RecordChanged(**describe(record, at), warnings=told)


def grant(
    registry: Registry,
    subject: str,
    scope: Scope | None,
    *,
    record_id: str | None = None,
    notice: Notice | None = None,
    guardian: str | None = None,
    compensation: str | None = None,
    evidence: Path | None = None,
    keep_evidence: bool = False,
    signed: Path | None = None,
    training_set_digest: str | None = None,
    method: str = "command line",
) -> Granted:
    """Write down a consent: an answer to request ``record_id``, or a new record.

    Models of the subject that a withdrawal had blocked, and that nobody else upstream holds back, are served again;
    the subject's do-not-recreate references are forgotten, unless nothing else is left of them. That somebody who
    withdrew agrees again takes evidence that no record of theirs has given before, or two people who say so.

    Args:
        scope: None = what was requested.
        evidence: a signed form, a recording…; its SHA-256 is kept, its content only with ``keep_evidence``.
        signed: a consent that the subject signed (``consent.credential``); its terms are the scope.

    Raises:
        UnknownPurpose, UnknownTerritory: a misspelt one. BadName, UsageError, NotFound (no such request), Conflict (it
        is no open request). BadFile: the evidence cannot be read, or the file was signed before they withdrew, or
        nobody knows when. SecondPersonNeeded: they withdrew, and one person alone says that they agree again.
    """
    signature, scope = signatures.read_terms(registry, subject, scope, signed)
    strange = unknown_words(registry, scope or Scope())
    notice = notices.completed(registry, notice)
    digest = None if evidence is None else evidence_digest(evidence)
    if evidence is not None and keep_evidence:
        registry.artifacts.put_file(evidence)
    given: dict[str, Any] = {
        "scope": scope,
        "method": method,
        "guardian": guardian,
        "compensation": compensation,
        "evidence_digest": digest,
        "signature": signature,
        "training_set_digest": training_set_digest,
    }
    with registry.catalog.write(registry.actor) as uow:
        at, subject = present(uow.session), subject_like(uow.session, subject) or subject
        if signature is not None:
            signatures.check_key(uow.session, subject, signature)
            signatures.check_time(uow.session, subject, signature, uow.now(), str(signed))
        decided = _agrees_again(registry, uow.session, subject, scope, signature, digest)
        record = _write_down(uow, subject, record_id, given, notice, evidence_stored=keep_evidence)
        restored = _in_service_again(registry, uow, subject)
        journal(uow, "consent.grant", record, restored=len(restored), **decided)
    told = [*warnings_about(strange), *notices.missing(record.notice)]
    return Granted(**describe(record, at), restored=restored, warnings=told)


def _write_down(
    uow: UnitOfWork,
    subject: str,
    record_id: str | None,
    given: Mapping[str, Any],
    notice: Notice | None,
    *,
    evidence_stored: bool,
) -> ConsentRecord:
    """Grant the request of that id, or a new record; ``given``: arguments of ``lifecycle.grant``."""
    if record_id is not None:
        record = lifecycle.grant(record_named(uow.session, subject, record_id), uow.now(), uow.actor, **given)
        grant_request(uow, record, evidence_stored=evidence_stored)
        return record
    asked = lifecycle.request(new_id(), subject, given["scope"] or Scope(), uow.now(), uow.actor, notice=notice)
    record = lifecycle.grant(replace(asked, events=()), uow.now(), uow.actor, **given)
    ensure_subject(uow, subject)
    insert_record(uow, record, evidence_stored=evidence_stored)
    return record


def _agrees_again(
    registry: Registry,
    session: Session,
    subject: str,
    scope: Scope | None,
    signature: str | None,
    evidence: str | None,
) -> dict[str, str]:
    """By whom it is decided that a subject who refused agrees again, as the event has it; nothing when they had not.

    A consent that has run out, or that somebody contests, refuses as well while no other record of theirs is live.

    Raises:
        SecondPersonNeeded: neither a signed consent nor evidence proves it, and nobody else says so too.
    """
    row = session.get(Subject, subject)
    if row is None:
        return {}
    records, at = load_records(session, [subject]).get(subject, ()), present(session)
    ended = {Status.WITHDRAWN, Status.INVALIDATED}
    if subject_state(records, at) is not ConsentState.GRANTED:
        ended |= {Status.EXPIRED, Status.DISPUTED}
    over = sorted(r.record_id for r in records if r.status_at(at) in ended)
    if row.state is SubjectState.ACTIVE and not over:
        return {}
    proof = new_proof(session, subject, signature, evidence)
    if proof is not None:
        return {DECIDED: proof} | ({"evidence": str(evidence)} if proof == EVIDENCE else {})
    meant = None if scope is None else asdict(scope)
    decided = said_by_two(
        registry,
        session,
        digest_of(["grant", subject, str(row.state), over, meant]),
        f"record that {subject}, who refused before or whose consent is over, agrees",
        command("consent grant", subject, "…"),
        hint="or name what proves it with [[evidence]]",
    )
    return {DECIDED: decided}


def _in_service_again(registry: Registry, uow: UnitOfWork, subject: str) -> list[str]:
    """A subject who refused agrees: serve again what their withdrawal had blocked, unless somebody else upstream holds
    it back, and forget their references where models of theirs are left. Where none is, the references alone tell who a
    newcomer is that does not name them, and refuse it should they withdraw once more. Nothing when they had not
    refused."""
    session = uow.session
    row = subject_by_id(session, subject)
    if row.state is SubjectState.ACTIVE:
        return []
    row.state = SubjectState.ACTIVE
    theirs = depictions(session, subject)
    if any(not v.derived and v.state is not VersionState.ERASED for v in theirs):
        unprotect(uow, subject)
    else:
        set_at_rest(uow, subject)
    session.flush()
    blocked = [v.version_id for v in theirs if v.state is VersionState.BLOCKED]
    states = consent_states(session, blocked, present(session), gate.rules_of(registry, session))
    free = [i for i in blocked if states[i] not in {ConsentState.WITHDRAWN, ConsentState.INVALIDATED}]
    waiting = {one.hold.version_id for one in open_holds(session, free)}
    uow.bulk_update(Version, waiting, {"state": VersionState.HELD})
    uow.bulk_update(Version, [i for i in free if i not in waiting], {"state": VersionState.ACTIVE})
    refs = refs_of(session, free)
    return [str(refs[i]) for i in free]


_LIMIT = 4 << 30  # a long recording


def evidence_digest(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        BadFile: it cannot be read.
    """
    return sha256_file(path, limit=_LIMIT)


def new_proof(session: Session, subject: str, signature: str | None, evidence: str | None) -> str | None:
    """What of a signed consent and of evidence (a SHA-256) is new, in the words that events have; None: nothing.

    Evidence is old when a record of theirs has it, or when anything was decided on it before their last no: what proved
    that somebody agreed before they refused does not prove that they agree again. Its digest outlives an erasure. When
    a consent was signed it says itself (``signatures.check_time``).
    """
    records = load_records(session, [subject], history=False).get(subject, ())
    if signature is not None and signature not in {record.signature for record in records}:
        return SUBJECT
    if evidence is None or evidence in {record.evidence_digest for record in records}:
        return None
    no = last_no(session, subject)
    if no is not None and any(at <= no.at for at in _seen(session, subject, evidence)):
        return None
    return EVIDENCE


def _seen(session: Session, subject: str, evidence: str) -> Iterator[datetime]:
    """When this evidence was given before: for any consent, or for whom a model depicts."""
    yield from evidence_given(session, evidence)
    for event in events_touching(session, {"subject": {subject}}, {}):
        if event.payload.get("evidence") == evidence:
            yield event.at
