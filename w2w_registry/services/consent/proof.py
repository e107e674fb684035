"""What proves that a subject agrees, once they had refused: only what nobody here had seen when they did."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy.orm import Session

from w2w_registry.catalog.consents import evidence_given, last_no
from w2w_registry.catalog.events import events_touching
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.consent.second_person import EVIDENCE, SUBJECT


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
