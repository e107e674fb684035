"""What a release tells of the consents it was published under: states and scopes, and nobody's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from w2w_registry.consent.policy import Decision, Upstream, combined_state, subject_state
from w2w_registry.consent.receipt import CONTEXT, public_consent
from w2w_registry.consent.records import ConsentRecord
from w2w_registry.hub import bundle
from w2w_registry.hub.card import ConsentFacts
from w2w_registry.records import ConsentState, iso


@dataclass(frozen=True)
class Consent:
    """Whether somebody is depicted, what the card says of their consent, and ``consent.json``."""

    likeness: bool
    facts: ConsentFacts | None
    file: bytes


def consent_of(upstream: Sequence[Upstream], decision: Decision, at: datetime) -> Consent:
    """What a release tells of the consents the decision relied on: ids, digests and scopes, nobody's name."""
    if not upstream:
        return Consent(False, None, b"")
    relied = dict(decision.relied_on)
    per_subject = [tuple(r for r in u.records if r.record_id in relied) for u in upstream]
    state = combined_state(subject_state(u.records, at) for u in upstream)
    receipts = [_receipt(records, at) for records in per_subject]
    return Consent(
        True,
        _facts([r for records in per_subject for r in records], state),
        bundle.encode_consent(str(state), receipts, _CONTEXT),
    )


def _receipt(records: Sequence[ConsentRecord], at: datetime) -> dict[str, Any]:
    said = {k: v for k, v in public_consent(records, at).items() if k != "@context"}
    # The moment of issue would make every push a new content; the last change of the records does not.
    moments = [event.at for record in records for event in record.events]
    return {**said, "issued": iso(max(moments)) if moments else None}


# The terms of DPV and Dublin Core that occur in what is published; the rest is this project's own vocabulary.
_TERMS = ("dpv", "dct", "identifier", "status", "issued")
_CONTEXT = {"@vocab": "urn:w2w-registry:terms#", **{term: CONTEXT[term] for term in _TERMS}}


def _facts(records: Sequence[ConsentRecord], state: ConsentState) -> ConsentFacts:
    """What all records together allow: only what each of them does."""
    if not records:
        return ConsentFacts(str(state))
    scopes = [record.scope for record in records]
    purposes = _common([None if s.any_purpose else set(s.purposes) for s in scopes])
    uses = _common([None if s.uses is None else {str(u) for u in s.uses} for s in scopes])
    ends = [s.expires_at for s in scopes if s.expires_at is not None]
    return ConsentFacts(
        state=str(state),
        purposes=("any",) if purposes is None else tuple(sorted(purposes)),
        uses=None if uses is None else tuple(sorted(uses)),
        forbidden=tuple(sorted({str(f) for s in scopes for f in s.forbidden})),
        derivatives=all(s.allows_derivatives for s in scopes),
        expires=None if not ends else f"{min(ends):%Y-%m-%d}",
    )


def _common(sets: Sequence[set[str] | None]) -> set[str] | None:
    """Intersection; None is everything."""
    found: set[str] | None = None
    for one in sets:
        found = one if found is None else found if one is None else found & one
    return found
