"""Consent operations: each one transaction with its event. Withdrawal, which does much more, is in ``withdraw``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.depictions import depictions
from w2w_registry.catalog.holds import open_holds
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Subject, SubjectState, Version
from w2w_registry.catalog.resolve import subject_by_id, subject_like, version_for
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent import lifecycle
from w2w_registry.consent.policy import Decision, subject_state
from w2w_registry.consent.receipt import receipt as receipt_json
from w2w_registry.consent.receipt import receipt_markdown
from w2w_registry.consent.records import ConsentRecord, Notice, Scope, Status, Use, to_json
from w2w_registry.errors import Conflict, NotFound
from w2w_registry.records import ConsentState, VersionState, digest_of, now
from w2w_registry.services.consent import door, gate, notices, signatures
from w2w_registry.services.consent.evidence import evidence_digest
from w2w_registry.services.consent.rows import grant_request, insert_record, load_records, move_record
from w2w_registry.services.consent.scopes import parse_uses
from w2w_registry.services.consent.second_person import said_by_two
from w2w_registry.services.consent.vocabulary import unknown_words, warnings_about
from w2w_registry.services.recording.outputs import write_outputs
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.services.registry import Registry


def request(registry: Registry, subject: str, scope: Scope, *, notice: Notice | None = None) -> dict[str, Any]:
    """Write down that a consent was asked for. Adds the subject when it is not there.

    Raises:
        BadName, UsageError: a scope that can never hold. UnknownPurpose, UnknownTerritory: a misspelt one.
    """
    strange = unknown_words(registry, scope)
    notice = notices.completed(registry, notice)
    with registry.catalog.write(registry.actor) as uow:
        record = lifecycle.request(_new_id(), subject, scope, uow.now(), registry.actor, notice=notice)
        ensure_subject(uow, subject)
        insert_record(uow, record)
        _journal(uow, "consent.request", record)
    return {**describe(record, now()), "warnings": [*warnings_about(strange), *notices.missing(record.notice)]}


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
) -> dict[str, Any]:
    """Write down a consent: an answer to request ``record_id``, or a new record.

    Models of the subject that a withdrawal had blocked, and that nobody else upstream holds back, are served again;
    the subject's do-not-recreate references are forgotten. That somebody who withdrew agrees again takes evidence, or
    two people who say so.

    Args:
        scope: None = what was requested.
        evidence: a signed form, a recording…; its SHA-256 is kept, its content only with ``keep_evidence``.
        signed: a consent that the subject signed (``consent.credential``); its terms are the scope.

    Returns:
        The record, with ``restored`` (versions back in service) and ``warnings``.

    Raises:
        UnknownPurpose, UnknownTerritory: a misspelt one. BadName, BadFile (evidence), UsageError, NotFound (no such
        request), Conflict (it is no open request), SecondPersonNeeded (they withdrew, and one person alone says that
        they agree again).
    """
    signature = None if signed is None else signatures.read_signed(signed)
    if signature is not None:
        scope = signatures.scope_of(signature, subject, scope, str(signed))
    signatures.check_demanded(registry, subject, signature)
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
        at = uow.now()
        subject = subject_like(uow.session, subject) or subject
        if signature is not None:
            signatures.check_key(uow.session, subject, signature)
        elif digest is None:
            _agrees_again(registry, uow.session, subject, scope)
        if record_id is not None:
            asked = _one(uow.session, subject, record_id)
            record = lifecycle.grant(asked, at, registry.actor, **given)
            grant_request(uow, record, evidence_stored=keep_evidence)
        else:
            asked = lifecycle.request(_new_id(), subject, scope or Scope(), at, registry.actor, notice=notice)
            record = lifecycle.grant(replace(asked, events=()), at, registry.actor, **given)
            ensure_subject(uow, subject)
            insert_record(uow, record, evidence_stored=keep_evidence)
        row = subject_by_id(uow.session, subject)
        restored: list[str] = []
        if row.state is not SubjectState.ACTIVE:
            row.state = SubjectState.ACTIVE
            door.unprotect(uow, subject)
            restored = _restore(uow, subject, registry)
        _journal(uow, "consent.grant", record, restored=len(restored))
    told = [*warnings_about(strange), *notices.missing(record.notice)]
    return {**describe(record, now()), "restored": restored, "warnings": told}


def _agrees_again(registry: Registry, session: Session, subject: str, scope: Scope | None) -> None:
    """Raise unless nothing says that this subject refused, or another person says too that they agree now."""
    row = session.get(Subject, subject)
    if row is None:
        return
    records = load_records(session, [subject]).get(subject, ())
    over = sorted(r.record_id for r in records if r.status in (Status.WITHDRAWN, Status.INVALIDATED))
    if row.state is SubjectState.ACTIVE and not over:
        return
    meant = None if scope is None else asdict(scope)
    said_by_two(
        registry,
        session,
        digest_of(["grant", subject, str(row.state), over, meant]),
        f"record that {subject}, who refused before, agrees",
        f"w2w-reg consent grant {subject} …",
        hint="or name what proves it with [[evidence]]",
    )


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


def receipt(registry: Registry, subject: str, *, record_id: str | None = None) -> list[dict[str, Any]]:
    """Receipts of a subject's records: ``json`` (JSON-LD) and ``markdown`` of each; that they were issued is noted.

    Raises:
        NotFound: no such subject or record, or nothing was ever asked or granted.
    """
    out: list[dict[str, Any]] = []
    with registry.catalog.write(registry.actor) as uow:
        records = [r for r in _all(uow.session, subject) if record_id in (None, r.record_id)]
        if not records:
            raise NotFound(what="consent record", name=record_id or subject)
        for record in records:
            noted = lifecycle.note(record, "receipt", uow.now(), registry.actor)
            move_record(uow, noted)
            _journal(uow, "consent.receipt", noted)
            out.append({"json": receipt_json(noted, uow.now()), "markdown": receipt_markdown(noted, uow.now())})
    return out


def write_receipts(
    registry: Registry, receipts: Sequence[dict[str, Any]], folder: Path, *, force: bool = False
) -> list[str]:
    """Write each receipt as RECORD.json and RECORD.md into ``folder``; returns the paths.

    Raises:
        OutputExists, OutputInHome: see ``check_outputs``. StorageError: they cannot be written.
    """
    files = {}
    for one in receipts:
        stem = one["json"]["identifier"]
        files[folder / f"{stem}.json"] = (json.dumps(one["json"], indent=2, ensure_ascii=False) + "\n").encode()
        files[folder / f"{stem}.md"] = one["markdown"].encode()
    write_outputs(registry, files, force=force)
    return [str(path) for path in files]


def show(registry: Registry, subject: str, *, moment: datetime | None = None) -> dict[str, Any]:
    """A subject's consent: in one word, and every record; with ``moment`` as it was then.

    Raises:
        NotFound: no such subject.
    """
    at = moment or now()
    with registry.catalog.read() as session:
        row = subject_by_id(session, subject)
        records = [r for r in _all(session, row.id) if moment is None or any(e.at <= moment for e in r.events)]
    return {
        "subject": row.id,
        "state": row.state.value,
        "consent": subject_state(records, at).value,
        "records": [describe(record, at) for record in records],
    }


def check(
    registry: Registry,
    reference: str,
    *,
    uses: Sequence[str] = tuple(Use),
    purpose: str | None = None,
    territory: str | None = None,
    at: datetime | None = None,
) -> dict[str, Any]:
    """What may be done with a version, for a purpose, at an instant: one decision per use.

    Raises:
        NotFound: no such identity or version.
    """
    moment = at or now()
    with registry.catalog.read() as session:
        version = version_for(session, reference)
        decisions = gate.ask_uses(
            registry,
            parse_uses(uses),
            versions=[version.id],
            purpose=purpose,
            territory=territory,
            session=session,
            at=moment,
        )
        state = gate.consent_states(session, [version.id], moment, gate.rules_of(registry, session))[version.id]
        name = f"{version.identity.name}@{version.number}"
    return {
        "version": name,
        "consent": state.value,
        "purpose": decisions[0].purpose if decisions else purpose,
        "at": moment,
        "decisions": [decision_json(d) for d in decisions],
    }


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as plain values."""
    return {
        "use": str(decision.use),
        "allowed": decision.allowed,
        "reasons": [str(r) for r in decision.reasons],
        "warnings": [str(w) for w in decision.warnings],
        "relied_on": dict(decision.relied_on),
    }


def describe(record: ConsentRecord, at: datetime) -> dict[str, Any]:
    """A record as plain values, with its state at ``at`` and its digest."""
    return {**to_json(record), "status": str(record.status_at(at)), "digest": record.digest()}


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
        record = change(old, _new_id(), uow.now())
        insert_record(uow, record)
        _journal(uow, action, record, supersedes=old.record_id)
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
        _journal(uow, action, record)
    return describe(record, now())


def _all(session: Session, subject: str) -> tuple[ConsentRecord, ...]:
    known = subject_by_id(session, subject).id
    return load_records(session, [known]).get(known, ())


def _one(session: Session, subject: str, record_id: str) -> ConsentRecord:
    for record in _all(session, subject):
        if record.record_id == record_id:
            return record
    raise NotFound(what="consent record", name=record_id)


def _pick(session: Session, subject: str, record_id: str | None, among: set[Status], at: datetime) -> ConsentRecord:
    """The record meant: the one named, else the only one in one of these states."""
    if record_id is not None:
        return _one(session, subject, record_id)
    found = [r for r in _all(session, subject) if r.status_at(at) in among]
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(sorted(among))
    if not found:
        raise Conflict(what="consent of", name=subject, reason=f"no record is {wanted}")
    names = ", ".join(r.record_id for r in found)
    raise Conflict(what="consent of", name=subject, reason=f"{len(found)} records are {wanted}; name one: {names}")


def _restore(uow: UnitOfWork, subject: str, registry: Registry) -> list[str]:
    """Serve again what the subject's withdrawal had blocked, unless somebody else upstream holds it back."""
    session = uow.session
    uow.session.flush()
    blocked = [v.version_id for v in depictions(session, subject) if v.state is VersionState.BLOCKED]
    states = gate.consent_states(session, blocked, uow.now(), gate.rules_of(registry, session))
    free = [i for i in blocked if states[i] not in {ConsentState.WITHDRAWN, ConsentState.INVALIDATED}]
    waiting = {one.hold.version_id for one in open_holds(session, free)}
    uow.bulk_update(Version, waiting, {"state": VersionState.HELD})
    uow.bulk_update(Version, [i for i in free if i not in waiting], {"state": VersionState.ACTIVE})
    refs = refs_of(session, free)
    return [str(refs[i]) for i in free]


def _journal(uow: UnitOfWork, action: str, record: ConsentRecord, **payload: Any) -> None:
    uow.event(action, {"subject": record.subject, "record": record.record_id}, digest=record.digest(), **payload)


def _new_id() -> str:
    return str(uuid.uuid4())
