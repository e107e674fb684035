"""What was in the registry at a moment: from when versions were made, and when they were taken out."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Version
from w2w_registry.catalog.events import events
from w2w_registry.records import VersionState


def newest_at(session: Session, moment: datetime) -> set[int]:
    """Ids of the versions that were each identity's newest then, those removed since included; erased ones are not
    told of."""
    gone: set[str] = set()
    for event in events(session, action="version.remove", before=moment):
        named = event.objects.get("version", ())
        gone.update(map(str, named if isinstance(named, list) else [named]))
    newest: dict[int, tuple[int, int]] = {}
    query = select(Version.id, Version.identity_id, Version.number).where(
        Version.created <= moment, Version.state != VersionState.ERASED
    )
    for version, identity, number in session.execute(query):
        if str(version) not in gone:
            newest[identity] = max(newest.get(identity, (0, 0)), (number, version))
    return {version for _, version in newest.values()}


def placed_since(session: Session, moment: datetime) -> set[int]:
    """Ids of the versions that were registered before there was a weight space for them, and came into one since."""
    placed = events(session, action="version.place", since=moment)
    return {int(event.objects["version"]) for event in placed if event.at > moment}
