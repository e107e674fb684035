"""What services answer about identities: each answer's fields are the keys of ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from w2w_registry.records import Result


@dataclass(frozen=True, eq=False)
class IdentityRow(Result):
    """What a list shows of an identity: its newest version. ``held``: whom it resembles, and by what."""

    identity: str
    version: int
    kind: str
    state: str
    space: str | None
    adapter: str
    base_model: str | None
    residual: float | None
    consent: str
    held: str | None
    labels: Mapping[str, Any]
    tags: Mapping[str, str]
    aliases: Mapping[str, int]
    created: datetime


@dataclass(frozen=True)
class OpenHold(Result):
    """Why a version waits for somebody's decision. ``like``: whom it resembles or, where ``unlike``, the version before
    it that it does not look like; None: nobody who is shown. ``by``: what was compared."""

    like: str | None
    unlike: bool
    why: str
    by: str

    def __str__(self) -> str:
        return f"{self.like or '?'} ({self.why}; by {self.by})"


@dataclass(frozen=True, eq=False)
class MadeBy(Result):
    """The operation that made a version."""

    id: str
    kind: str
    agent: str
    started_at: str
    params: Mapping[str, Any]
    seed: int | None
    code_version: str
    models: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class IdentityShown(Result):
    """One version of an identity and all that is known of it. ``held``: ``hold`` in words."""

    identity: str
    version: int
    kind: str
    state: str
    consent: str
    held: str | None
    hold: OpenHold | None
    subjects: list[str]
    space: str | None
    adapter: str
    residual: float | None
    coordinates_digest: str | None
    model_digest: str
    manifest_digest: str | None
    preview_digest: str | None
    base_model: str | None
    base_revision: str | None
    labels: Mapping[str, Any]
    tags: Mapping[str, str]
    aliases: Mapping[str, int]
    operation: MadeBy
    versions: list[VersionRow]


@dataclass(frozen=True, eq=False)
class VersionRow(Result):
    """One version of an identity, in short."""

    version: int
    state: str
    space: str | None
    residual: float | None
    operation: str
    created: datetime


@dataclass(frozen=True, eq=False)
class Removal(Result):
    """What is taken out of service, or would be."""

    identity: str
    versions: list[str]
    performed: bool


@dataclass(frozen=True, eq=False)
class AliasSet(Result):
    """What an alias means now; None: nothing."""

    identity: str
    alias: str
    version: int | None


@dataclass(frozen=True, eq=False)
class Tagged(Result):
    """The tags an identity has now."""

    identity: str
    tags: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class AliasAt(Result):
    """What an alias meant at a moment."""

    identity: str
    alias: str
    version: int
    at: str


@dataclass(frozen=True, eq=False)
class AliasPeriod(Result):
    """What an alias meant, and from when to when."""

    identity: str
    alias: str
    version: int | None
    since: datetime
    until: datetime | None
