"""A list as it was at a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.former import Then, newest_at, placed_since
from w2w_registry.catalog.holds import holds_at
from w2w_registry.catalog.listing import Listed, list_versions
from w2w_registry.catalog.resolve import alias_at, alias_history
from w2w_registry.catalog.where import Expression
from w2w_registry.records import VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.identities.answers import IdentityRow
from w2w_registry.services.identities.manage import holds_shown, rows_of
from w2w_registry.services.registry import Registry


def browse_at(
    registry: Registry,
    session: Session,
    meant: Callable[[str], bool],
    where: Expression | None,
    sort: str,
    limit: int | None,
    moment: datetime,
) -> list[IdentityRow]:
    """What was each identity's newest version at ``moment``, as a list showed it then, of those whose names then are
    ``meant``; ``where`` looks at what it is today, and so do sorts other than by name. What policy makes of consents is
    what today's makes of them."""
    then = Then(session, moment)
    ids = newest_at(session, moment)
    lines = list_versions(session, where, sort=sort, every_version=True, states=tuple(VersionState))
    lines = [line for line in lines if line.version.id in ids]
    names = then.names(line.identity.id for line in lines)
    listed = [line for line in lines if meant(names.get(line.identity.id, line.identity.name))]
    if sort in ("name", "-name"):
        listed.sort(key=lambda line: names.get(line.identity.id, line.identity.name), reverse=sort == "-name")
    return _as_of(registry, session, listed[:limit], then, names)


def _as_of(
    registry: Registry, session: Session, listed: list[Listed], then: Then, names: Mapping[int, str]
) -> list[IdentityRow]:
    rows = rows_of(registry, session, listed)
    ids, identities = [line.version.id for line in listed], [line.identity.id for line in listed]
    labels = then.labels({line.version.id: row.labels for line, row in zip(listed, rows, strict=True)}, ids)
    tags = then.tags({line.identity.id: row.tags for line, row in zip(listed, rows, strict=True)}, identities)
    states, kinds, placed = then.states(ids), then.kinds(identities), placed_since(session, then.moment)
    consent = consent_states(session, ids, then.moment, gate.rules_of(registry, session), then)
    rows = [
        replace(
            row,
            identity=names.get(line.identity.id, row.identity),
            kind=kinds.get(line.identity.id, row.kind),
            state=states.get(line.version.id, row.state),
            consent=str(consent[line.version.id]),
            labels=labels[line.version.id],
            tags=tags[line.identity.id],
            aliases=_aliases_then(session, line.identity, then.moment),
            space=None if line.version.id in placed else row.space,
            residual=None if line.version.id in placed else row.residual,
        )
        for line, row in zip(listed, rows, strict=True)
    ]
    was_held = [i for i, row in zip(ids, rows, strict=True) if row.state == VersionState.HELD]
    held = holds_shown(session, holds_at(session, was_held, then.moment))
    return [replace(row, held=str(held[i]) if i in held else None) for i, row in zip(ids, rows, strict=True)]


def _aliases_then(session: Session, identity: Any, moment: datetime) -> dict[str, int]:
    names = sorted({period.alias for period in alias_history(session, identity)})
    then = {name: alias_at(session, identity, name, moment) for name in names}
    return {name: version.number for name, version in then.items() if version is not None}
