"""What a subject agreed to, as frozen values.

The fields follow ISO/IEC TS 27560:2023 (consent record structure) plus what a likeness needs: guardian, allowed
and forbidden uses, territory, derivatives, publication, compensation, evidence and training-set digests.
A record holds pseudonymous ids and digests; names and addresses have no place in it.

``None`` and ``()`` differ: ``territory=None`` is the whole world, ``()`` is nowhere; ``uses=None`` is every use
the purposes cover, ``()`` is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from w2w_registry.records import digest_of, iso

SCHEMA = "ISO/IEC TS 27560:2023; w2w-likeness 1"
ANY_PURPOSE = "any"
PURPOSES = (
    *("research", "academic-research", "scientific-research", "commercial-research", "non-commercial-research"),
    *("advertising", "personalised-advertising", "marketing", "fashion", "catalogue", "product-development"),
    *(
        "art",
        "entertainment",
        "film",
        "games",
        "music",
        "news",
        "education",
        "personal",
        "testing",
        "service-provision",
    ),
)
"""Purposes every registry knows, after the W3C Data Privacy Vocabulary and what likenesses are licensed for."""


class Use(StrEnum):
    """What is done with a likeness. ``PUBLISH`` is everything that leaves the team (the Hub's push)."""

    REGISTER = "register"
    SEARCH = "search"
    TRAIN = "train"
    INVERT = "invert"
    EDIT = "edit"
    MIX = "mix"
    SAMPLE = "sample"
    GENERATE = "generate"
    EXPORT = "export"
    PUBLISH = "publish"


DERIVING = frozenset({Use.EDIT, Use.MIX})
"""Uses whose result is a new version made out of another one: they need leave for derivatives."""


class Status(StrEnum):
    """State of one record. ``EXPIRED`` is also reached by time alone, see ``ConsentRecord.status_at``."""

    REQUESTED = "requested"
    GIVEN = "given"
    EXPIRED = "expired"
    DISPUTED = "disputed"
    WITHDRAWN = "withdrawn"
    INVALIDATED = "invalidated"


@dataclass(frozen=True)
class Scope:
    """What is granted. Narrowing a record replaces its scope by a smaller one (``Scope.within``).

    ``purposes`` may hold ``any``: every purpose and derivatives; publication still has to be named.
    ``forbidden`` names uses and purposes that stay closed whatever else is granted. ``territory`` holds ISO 3166-1
    alpha-2 codes, or ``EU`` and ``EEA``.
    """

    purposes: tuple[str, ...] = ()
    uses: tuple[Use, ...] | None = None
    forbidden: tuple[str, ...] = ()
    derivatives: bool = False
    publication: bool = False
    territory: tuple[str, ...] | None = None
    valid_from: datetime | None = None
    expires_at: datetime | None = None

    @property
    def any_purpose(self) -> bool:
        return ANY_PURPOSE in self.purposes

    @property
    def allows_derivatives(self) -> bool:
        return self.derivatives or self.any_purpose

    def within(self, other: Scope) -> bool:
        """Whether everything this scope grants is granted by ``other`` too."""
        return (
            (other.any_purpose or set(self.purposes) <= set(other.purposes))
            and (other.uses is None or (self.uses is not None and set(self.uses) <= set(other.uses)))
            and set(self.forbidden) >= set(other.forbidden)
            and self.allows_derivatives <= other.allows_derivatives
            and self.publication <= other.publication
            and _territory_within(self.territory, other.territory)
            and (other.valid_from is None or (self.valid_from is not None and self.valid_from >= other.valid_from))
            and (other.expires_at is None or (self.expires_at is not None and self.expires_at <= other.expires_at))
        )


@dataclass(frozen=True)
class ConsentEvent:
    """One thing that happened to a record (TS 27560 event section).

    ``kind`` is the operation (request, grant, narrow, renew, expire, withdraw, invalidate, receipt, access,
    dispute), ``entity`` the id of who did it, ``method`` how it was expressed.
    """

    kind: str
    status: Status
    at: datetime
    entity: str
    method: str = "command line"
    until: datetime | None = None
    note_digest: str | None = None


@dataclass(frozen=True)
class Notice:
    """What the subject was told (TS 27560 header and processing sections): references, never the text itself.

    ``None`` is not stated, ``()`` is none.
    """

    notice: str | None = None
    language: str | None = None
    controllers: tuple[str, ...] | None = None
    data_types: tuple[str, ...] | None = ("photographs", "LoRA weights", "weight-space coordinates")
    storage_location: str | None = None
    retention: str | None = None
    jurisdiction: str | None = None
    recipients: tuple[str, ...] | None = None
    withdrawal_method: str | None = None


@dataclass(frozen=True)
class ConsentRecord:
    """One consent of one subject, with its history.

    Narrowing and renewing make a new record that ``supersedes`` the old one and carries its events on.
    """

    record_id: str
    subject: str
    status: Status
    scope: Scope
    notice: Notice = field(default_factory=Notice)
    guardian: str | None = None
    compensation: str | None = None
    evidence_digest: str | None = None
    signature: str | None = None
    training_set_digest: str | None = None
    events: tuple[ConsentEvent, ...] = ()
    supersedes: str | None = None
    schema_version: str = SCHEMA

    def status_at(self, now: datetime) -> Status:
        """The state at ``now``: a given record is expired once its term is over."""
        ends = self.scope.expires_at
        if self.status is Status.GIVEN and ends is not None and ends <= now:
            return Status.EXPIRED
        return self.status

    def digest(self) -> str:
        """SHA-256 over every field, what decisions and audit events name."""
        return digest_of(to_json(self))


EU = frozenset({"AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU"}) | frozenset(
    {"IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"}
)
_REGIONS: Mapping[str, frozenset[str]] = {"EU": EU, "EEA": EU | {"IS", "LI", "NO"}}


def countries(territory: tuple[str, ...]) -> frozenset[str]:
    """Country codes of a territory, with ``EU`` and ``EEA`` spelt out."""
    return frozenset[str]().union(*(_REGIONS.get(code.upper(), frozenset({code.upper()})) for code in territory))


def is_territory(code: str) -> bool:
    """Whether this reads as a country's two letters, ``EU`` or ``EEA``."""
    return code.upper() in _REGIONS or (len(code) == 2 and code.isascii() and code.isalpha())


def _territory_within(inner: tuple[str, ...] | None, outer: tuple[str, ...] | None) -> bool:
    if outer is None:
        return True
    return inner is not None and countries(inner) <= countries(outer)


def plain(value: Any) -> Any:
    """A record, or any part of one, as plain JSON values, times as RFC 3339."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return value


def to_json(record: ConsentRecord) -> dict[str, Any]:
    """Plain JSON values; ``from_json`` is its inverse."""
    found: dict[str, Any] = plain(record)
    return found


def from_json(data: Mapping[str, Any]) -> ConsentRecord:
    """The record ``to_json`` wrote.

    Raises:
        KeyError, TypeError, ValueError: when ``data`` is not such a record.
    """
    scope, notice = dict(data["scope"]), dict(data["notice"])
    for key in ("purposes", "forbidden", "territory"):
        scope[key] = None if scope[key] is None else tuple(scope[key])
    scope["uses"] = None if scope["uses"] is None else tuple(Use(u) for u in scope["uses"])
    for key in ("valid_from", "expires_at"):
        scope[key] = _moment(scope[key])
    for key in ("controllers", "data_types", "recipients"):
        notice[key] = None if notice[key] is None else tuple(notice[key])
    events = tuple(
        ConsentEvent(**{**e, "status": Status(e["status"]), "at": _moment(e["at"]), "until": _moment(e["until"])})
        for e in data["events"]
    )
    rest = {k: v for k, v in data.items() if k not in {"scope", "notice", "events", "status"}}
    return ConsentRecord(
        **rest, status=Status(data["status"]), scope=Scope(**scope), notice=Notice(**notice), events=events
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
