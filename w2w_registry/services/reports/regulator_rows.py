"""The rows of the regulator's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from w2w_registry.records import Result


@dataclass(frozen=True, eq=False)
class PolicySince(Result):
    """A policy, and since when it was in force."""

    since: datetime
    digest: str
    rules: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Decided(Result):
    """How often a use was allowed or refused under a policy."""

    use: str
    decision: str
    policy: str | None
    count: int


@dataclass(frozen=True, eq=False)
class ConsentMoved(Result):
    """How often something happened to consents under a policy."""

    action: str
    policy: str | None
    count: int


@dataclass(frozen=True, eq=False)
class Refused(Result):
    """A use that was refused: of what, and why (codes)."""

    seq: int
    at: datetime
    actor: str
    use: str | None
    about: str
    reasons: list[str]


@dataclass(frozen=True, eq=False)
class DecidedAlone(Result):
    """What one person decided alone: ``on`` their word, or on evidence (its SHA-256)."""

    seq: int
    at: datetime
    actor: str
    action: str
    about: str
    on: str
    evidence: str | None


@dataclass(frozen=True, eq=False)
class StepDone(Result):
    """A step of a withdrawal, and the seconds since that was asked for."""

    withdrawal: str
    subject: str | None
    started: datetime
    erase: bool
    step: str
    at: datetime
    seconds: float


@dataclass(frozen=True, eq=False)
class TakenDown(Result):
    """A takedown: when it was queued, and when the Hub showed that it holds (None: not yet)."""

    takedown: str
    release: str
    queued: datetime
    done: datetime | None = None
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Marked(Result):
    """Pictures that one kind of event let go: with a mark that is seen, with a number, and with marking off."""

    action: str
    pictures: int
    seen: int
    numbered: int
    off: int


@dataclass(frozen=True, eq=False)
class Incident(Result):
    """What went wrong, how often, first (``seq``, ``at``) and last."""

    seq: int
    at: datetime
    last: datetime
    count: int
    actor: str
    action: str
    details: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SignedAt(Result):
    """The newest checkpoint, with the key it is signed with (hex)."""

    size: int
    at: datetime
    note: str
    public_key: str | None
