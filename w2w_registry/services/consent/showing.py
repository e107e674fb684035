"""What a subject consented to, and what that allows to be done with a version; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from w2w_registry.catalog.former import Then
from w2w_registry.catalog.resolve import subject_by_id, version_for
from w2w_registry.consent.credential import open_credential
from w2w_registry.consent.policy import Decision, is_signed, subject_state
from w2w_registry.consent.records import ConsentRecord, Use, is_territory, to_json
from w2w_registry.errors import NotFound, UnknownTerritory
from w2w_registry.records import Result, iso
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.rows import records_of_subject
from w2w_registry.services.consent.scopes import parse_uses
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.registry import Registry, present


@dataclass(frozen=True, eq=False)
class ConsentShown(Result):
    """A subject's consent in one word, and every record."""

    subject: str
    state: str
    consent: str
    records: list[RecordShown]


def show(registry: Registry, subject: str, *, moment: datetime | None = None) -> ConsentShown:
    """A subject's consent: in one word, and every record; with ``moment`` as it was then.

    Raises:
        NotFound: no such subject, or not by then.
    """
    with registry.catalog.read() as session:
        at = moment or present(session)
        row = subject_by_id(session, subject)
        if row.created > at:
            raise NotFound(what=f"subject registered by {iso(at)}", name=row.id)
        records = records_of_subject(session, row.id, at=moment)
        before = None if moment is None else Then(session, moment).subject(row.id)
    return ConsentShown(
        subject=row.id,
        state=before or row.state.value,
        consent=subject_state(records, at).value,
        records=[describe(record, at) for record in records],
    )


@dataclass(frozen=True, eq=False)
class Checked(Result):
    """What may be done with a version, at an instant."""

    version: str
    consent: str
    purpose: str | None
    at: datetime
    decisions: list[DecisionShown]


def check(
    registry: Registry,
    reference: str,
    *,
    uses: Sequence[str] = tuple(Use),
    purpose: str | None = None,
    territory: str | None = None,
    at: datetime | None = None,
) -> Checked:
    """What may be done with a version, for a purpose, at an instant: one decision per use.

    Raises:
        NotFound: no such identity or version. UnknownTerritory: a misspelt one.
    """
    if territory is not None and not is_territory(territory):
        raise UnknownTerritory(name=territory)
    with registry.catalog.read() as session:
        moment = at or present(session)
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
        state = consent_states(session, [version.id], moment, gate.rules_of(registry, session))[version.id]
        name = f"{version.identity.name}@{version.number}"
    return Checked(
        version=name,
        consent=state.value,
        purpose=decisions[0].purpose if decisions else purpose,
        at=moment,
        decisions=[decision_json(d) for d in decisions],
    )


@dataclass(frozen=True, eq=False)
class DecisionShown(Result):
    """Whether a use is allowed, and why: ``reasons`` for people, ``codes`` (``ReasonCode``) for programs."""

    use: str
    allowed: bool
    codes: list[str]
    reasons: list[str]
    warnings: list[str]
    relied_on: dict[str, Any]


def decision_json(decision: Decision) -> DecisionShown:
    """A decision as plain values; what several records say alike is said once."""
    said = dict.fromkeys((str(reason), reason.code) for reason in decision.reasons)
    return DecisionShown(
        use=str(decision.use),
        allowed=decision.allowed,
        codes=[str(code) for _, code in said],
        reasons=[sentence for sentence, _ in said],
        warnings=[str(w) for w in decision.warnings],
        relied_on=dict(decision.relied_on),
    )


@dataclass(frozen=True, eq=False)
class RecordShown(Result):
    """A consent record as plain values (``consent.records``), with its ``status`` at the time, its digest, and who
    signed it (``signed_with``: the key's thumbprint, and the site that asked when it was a passkey; None: the subject
    did not)."""

    record_id: str
    subject: str
    status: str
    scope: Mapping[str, Any]
    notice: Mapping[str, Any]
    guardian: str | None
    compensation: str | None
    evidence_digest: str | None
    signature: str | None
    training_set_digest: str | None
    events: Sequence[Mapping[str, Any]]
    supersedes: str | None
    schema_version: str
    digest: str
    signed_with: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class RecordChanged(RecordShown):
    """A record that was asked for, given or narrowed, and what to know about it."""

    warnings: list[str]


def describe(record: ConsentRecord, at: datetime) -> RecordShown:
    """A record as it is told at ``at``."""
    signed = None
    if is_signed(record) and record.signature is not None:
        found = open_credential(record.signature)
        signed = {"key": found.key, "passkey_at": found.origin}
    status = str(record.status_at(at))
    return RecordShown(**{**to_json(record), "status": status, "digest": record.digest(), "signed_with": signed})
