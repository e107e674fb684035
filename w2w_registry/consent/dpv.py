"""What consents say, in the terms of the W3C Data Privacy Vocabulary 2.0; and what it has no term for.

Terms are those of ``2.0/dpv/modules/*.csv`` in w3c/dpv. A term may be broader than our word, never narrower or another
one: what has none is left to this registry's own vocabulary, as free text is (recipients, controllers, retention).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from w2w_registry.consent.records import ANY_PURPOSE, Status, Use

PURPOSE: Final[Mapping[str, str | None]] = {
    ANY_PURPOSE: "Purpose",
    "research": "ResearchAndDevelopment",
    "academic-research": "AcademicResearch",
    "scientific-research": "ScientificResearch",
    "commercial-research": "CommercialResearch",
    "non-commercial-research": "NonCommercialResearch",
    "advertising": "Advertising",
    "personalised-advertising": "PersonalisedAdvertising",
    "marketing": "Marketing",
    "catalogue": "Marketing",
    "product-development": "ResearchAndDevelopment",
    "service-provision": "ServiceProvision",
    "personal": "NonCommercialPurpose",
    **dict.fromkeys(("fashion", "art", "entertainment", "film", "games", "music", "news", "education", "testing")),
}
"""A purpose → the term for it, or the narrowest that holds it; None: DPV has none (it leaves sectors to NACE)."""

PROCESSING: Final[Mapping[str, str]] = {
    Use.REGISTER: "Store",
    Use.SEARCH: "Match",
    Use.TRAIN: "Derive",
    Use.INVERT: "Derive",
    Use.EDIT: "Adapt",
    Use.MIX: "Combine",
    Use.SAMPLE: "Generate",
    Use.GENERATE: "Generate",
    Use.EXPORT: "Export",
    Use.PUBLISH: "MakeAvailable",
}
STATUS: Final[Mapping[Status, str]] = {
    Status.REQUESTED: "ConsentRequested",
    Status.GIVEN: "ConsentGiven",
    Status.EXPIRED: "ConsentExpired",
    Status.DISPUTED: "ConsentUnknown",
    Status.WITHDRAWN: "ConsentWithdrawn",
    Status.INVALIDATED: "ConsentInvalidated",
}
DATA: Final[Mapping[str, str]] = {
    "photographs": "CollectedPersonalData",
    "LoRA weights": "DerivedPersonalData",
    "weight-space coordinates": "DerivedPersonalData",
}
LEGAL_BASIS: Final = "Consent"
RIGHTS: Final = ("eu-gdpr:A7-3", "eu-gdpr:A15", "eu-gdpr:A17")
"""What this registry does for whoever asks: withdrawal, the answer about everything, erasure (DPV's legal/eu/gdpr)."""
SUBJECT, GUARDIAN = "DataSubject", "GuardianOfDataSubject"


def terms(words: Iterable[str], table: Mapping[str, str | None]) -> list[str]:
    """The terms for these words as compact IRIs, each once; what has none is left out."""
    found = (table.get(word) for word in words)
    return list(dict.fromkeys(f"dpv:{term}" for term in found if term is not None))
