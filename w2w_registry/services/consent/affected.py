"""What a withdrawal reaches: versions that depict the subject, and their releases."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from w2w_registry.catalog.depictions import depictions
from w2w_registry.catalog.models import ReleaseState
from w2w_registry.catalog.publications import open_takedowns, releases_of
from w2w_registry.consent.withdrawal import AffectedRelease, AffectedVersion
from w2w_registry.services.consent.takedown_queue import UP_TO


def affected_versions(session: Session, subject: str) -> list[AffectedVersion]:
    """Every version that depicts the subject, also through edits and mixes."""
    return [
        AffectedVersion(v.version_id, v.ref, v.derived, v.state.value, v.files) for v in depictions(session, subject)
    ]


def affected_releases(session: Session, version_ids: Iterable[int], *, erase: bool) -> list[AffectedRelease]:
    """Releases of these versions that no takedown has brought, or is to bring, as far as this one would."""
    steps = UP_TO["delete" if erase else "hide"]
    reached = {ReleaseState.DELETED} if erase else {ReleaseState.DELETED, ReleaseState.HIDDEN}
    rows = releases_of(session, version_ids)
    queued = {t.release_id: t.wanted for t in open_takedowns(session, releases=[row.id for row in rows])}
    found: list[AffectedRelease] = []
    for row in rows:
        if row.state in reached or set(steps) <= set(queued.get(row.id, ())):
            continue
        assert row.version_id is not None
        found.append(AffectedRelease(row.id, row.repo_id, row.commit_id, row.version_id))
    return found
