"""Why a use is not allowed: a code for programs, words for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """Why a record, or the lack of one, does not allow."""

    NO_SUBJECT = "no-subject"
    NO_RECORD = "no-record"
    REFUSES = "subject-refuses"
    REQUESTED = "only-requested"
    NOT_YET = "not-yet-valid"
    EXPIRED = "expired"
    DISPUTED = "disputed"
    WITHDRAWN = "withdrawn"
    INVALIDATED = "invalidated"
    PURPOSE = "purpose-not-granted"
    FORBIDDEN_PURPOSE = "purpose-forbidden"
    USE = "use-not-granted"
    FORBIDDEN_USE = "use-forbidden"
    DERIVATIVES = "derivatives-not-granted"
    PUBLICATION = "publication-not-granted"
    TERRITORY = "territory-not-granted"
    VERSION_BLOCKED = "version-blocked"
    LIKENESS = "likeness-refused"
    HELD = "held"
    UNSIGNED = "not-signed-by-the-subject"
    UNCOMPARED = "not-compared"
    UNKNOWN_PURPOSE = "purpose-unknown"


_WORDS: Mapping[ReasonCode, str] = {
    ReasonCode.NO_SUBJECT: "no subject is named",
    ReasonCode.NO_RECORD: "no consent is recorded",
    ReasonCode.REFUSES: "the subject has refused",
    ReasonCode.REQUESTED: "consent was requested but not given",
    ReasonCode.NOT_YET: "consent is not valid yet",
    ReasonCode.EXPIRED: "consent has expired",
    ReasonCode.DISPUTED: "consent is disputed",
    ReasonCode.WITHDRAWN: "consent was withdrawn",
    ReasonCode.INVALIDATED: "consent was found invalid",
    ReasonCode.PURPOSE: "this purpose is not granted",
    ReasonCode.FORBIDDEN_PURPOSE: "this purpose is forbidden",
    ReasonCode.USE: "this use is not granted",
    ReasonCode.FORBIDDEN_USE: "this use is forbidden",
    ReasonCode.DERIVATIVES: "derivatives are not granted",
    ReasonCode.PUBLICATION: "publication is not granted",
    ReasonCode.TERRITORY: "this territory is not granted",
    ReasonCode.VERSION_BLOCKED: "the version is blocked",
    ReasonCode.LIKENESS: "too near a likeness that was refused",
    ReasonCode.HELD: "held until somebody decides whom it depicts",
    ReasonCode.UNSIGNED: "the subject has not signed the consent",
    ReasonCode.UNKNOWN_PURPOSE: "this registry knows no such purpose",
    ReasonCode.UNCOMPARED: "never compared with those who refused",
}
"""What each code says to a person."""


@dataclass(frozen=True)
class Reason:
    """One reason of a decision; ``str()`` of it is what a person reads: ``subject: words (detail)``."""

    code: ReasonCode
    subject: str | None
    record_id: str | None = None
    detail: str | None = None
    through: str | None = None

    def __str__(self) -> str:
        who = f"{self.subject}: " if self.subject else ""
        via = f" [through {self.through}]" if self.through else ""
        return f"{who}{_WORDS[self.code]}" + (f" ({self.detail})" if self.detail else "") + via
