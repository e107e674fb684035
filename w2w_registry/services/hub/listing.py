"""``releases``: what is published, as the catalog has it; the Hub is not asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from w2w_registry.catalog import publications
from w2w_registry.catalog.former import Then
from w2w_registry.catalog.models import Release, Takedown
from w2w_registry.catalog.where import parse_where
from w2w_registry.hub.plan import Access
from w2w_registry.records import Result
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.registry import Registry, present


def list_releases(registry: Registry, where: str | None = None, *, moment: datetime | None = None) -> list[ReleaseRow]:
    """Releases, newest first; ``where`` speaks of the identity and version published, as elsewhere. ``moment``: only
    those published by then, with the states and consents of then; names, access and takedowns are today's.

    Raises:
        WhereError: it does not parse.
    """
    with registry.catalog.read() as session:
        rows = publications.list_releases(session, None if where is None else parse_where(where))
        rows = [r for r in rows if moment is None or r.created <= moment]
        versions = [r.version_id for r in rows if r.version_id is not None]
        before = None if moment is None else Then(session, moment)
        at, rules = moment or present(session), gate.rules_of(registry, session)
        states = consent_states(session, versions, at, rules, before)
        waiting = {t.release_id: t for t in publications.open_takedowns(session)}
        then = {} if before is None else before.releases(r.id for r in rows)
        return [
            _row(r, then.get(r.id), states.get(r.version_id) if r.version_id else None, waiting.get(r.id)) for r in rows
        ]


@dataclass(frozen=True, eq=False)
class TakedownWaiting(Result):
    """A takedown that is not done: the steps wanted and done, how often it was tried, and when it is tried again."""

    wanted: list[str]
    done: list[str]
    attempts: int
    last_error: str | None
    next_at: datetime | None


@dataclass(frozen=True, eq=False)
class ReleaseRow(Result):
    """A release, whether it may stay, and the takedown that waits for it."""

    version: str
    repo: str
    commit: str
    tag: str | None
    access: str
    format: str
    state: str
    consent: str | None
    endpoint: str
    created: datetime
    checked: datetime | None
    takedown: TakedownWaiting | None


def _row(row: Release, state: str | None, consent: Any, waiting: Takedown | None) -> ReleaseRow:
    return ReleaseRow(
        version=release_ref(row),
        repo=row.repo_id,
        commit=row.commit_id,
        tag=row.revision,
        access=str(access_of(row)),
        format=row.format,
        state=state or str(row.state),
        consent=None if consent is None else str(consent),
        endpoint=row.endpoint,
        created=row.created,
        checked=row.checked_at,
        takedown=None
        if waiting is None
        else TakedownWaiting(
            waiting.wanted, [s["step"] for s in waiting.done], waiting.attempts, waiting.last_error, waiting.next_at
        ),
    )


def access_of(row: Release) -> Access:
    return Access.of(private=row.visibility == "private", gated=bool(row.gated))


def release_ref(release: Release) -> str:
    """``acme/alice@3`` or ``faces@1``: what a release publishes."""
    if release.version is not None:
        return f"{release.version.identity.name}@{release.version.number}"
    assert release.space is not None
    return release.space.ref
