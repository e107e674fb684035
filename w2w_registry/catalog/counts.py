"""How much of everything there is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import PLAIN_ADAPTER, Identity, Label, SourceFile, Tag, Version
from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.releases import Release
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.subjects import Subject


def counts(session: Session) -> dict[str, Any]:
    """Counts by noun; ``by`` splits the versions in service by what distinguishes them, the commonest first."""
    served = Version.state.in_(PRESENT)

    def number(model: Any, *where: Any) -> int:
        return session.scalar(select(func.count()).select_from(model).where(*where)) or 0

    def split(column: Any, *joins: Any) -> dict[str, int]:
        query: Any = select(column, func.count()).select_from(Version)
        for join in joins:
            query = query.join(*join) if isinstance(join, tuple) else query.join(join)
        rows = session.execute(query.where(served).group_by(column)).all()
        return {str(key) if key is not None else "-": count for key, count in sorted(rows, key=lambda row: -row[1])}

    spaces = {space.id: space.ref for space in session.scalars(select(Space))}
    by_space = split(Version.space_id)
    return {
        "identities": number(Identity, Identity.removed.is_(None)),
        "versions": number(Version, served),
        "removed": number(Version, ~served),
        "spaces": len(spaces),
        "subjects": number(Subject),
        "releases": number(Release),
        "events": number(Event),
        "labels": session.scalar(select(func.count(func.distinct(Label.name)))) or 0,
        "tags": session.scalar(select(func.count(func.distinct(Tag.key)))) or 0,
        "by": {
            "kind": split(Identity.kind, Version.identity),
            "state": split(Version.state),
            "adapter": {(PLAIN_ADAPTER if key == "-" else key): count for key, count in split(Version.adapter).items()},
            "base model": split(Version.base_model),
            "space": {("-" if key == "-" else spaces[int(key)]): count for key, count in by_space.items()},
            "made by": split(Operation.kind, (Operation, Operation.id == Version.operation_id)),
            "format": split(SourceFile.format, (SourceFile, SourceFile.version_id == Version.id)),
        },
    }
