"""Lists as people ask for them: by part of a name or a pattern, with any columns, and as they were on a day."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import names_beginning, names_in_service
from w2w_registry.catalog.listing import list_versions
from w2w_registry.catalog.moments import newest_at
from w2w_registry.catalog.resolve import alias_at, alias_history
from w2w_registry.catalog.where import All, Compare, Expression, Field, Some, parse_where
from w2w_registry.errors import UsageError
from w2w_registry.records import VersionState, composed
from w2w_registry.services.identities.answers import IdentityRow
from w2w_registry.services.identities.manage import parse_moment, rows_of
from w2w_registry.services.registry import Registry

COLUMNS: Final = (
    *("identity", "version", "kind", "state", "space", "adapter", "base_model", "residual", "held", "consent"),
    *("labels", "tags", "aliases", "created"),
)
"""What a list can show; ``label.NAME`` and ``tag.KEY`` are columns too."""
SHOWN: Final = (
    "identity",
    "version",
    "kind",
    "state",
    "held",
    "space",
    "residual",
    "consent",
    "aliases",
    "tags",
    "created",
)
_LARGEST_PATTERN = 300


def browse(
    registry: Registry,
    patterns: Sequence[str] = (),
    *,
    where: str | None = None,
    sort: str = "name",
    limit: int | None = None,
    at: str | None = None,
) -> list[IdentityRow]:
    """The newest version of each identity that matches, as ``list_identities`` gives it.

    Args:
        patterns: names or shell patterns (``acme/*``); a word without ``*``, ``?`` or ``[`` matches the names it is
            part of, in any case. An identity is listed that matches one of them.
        at: a date or time; what was newest then, with the aliases of then. Labels, tags and consent are today's.

    Raises:
        WhereError: ``where`` does not parse. UsageError: an unknown sort, a moment that is none, a pattern too long.
    """
    expression = None if where is None else parse_where(where)
    with registry.catalog.read() as session:
        if patterns:
            named = matching_names(session, patterns, removed=at is not None)
            if not named:
                return []
            terms = (_named(named), *(() if expression is None else (expression,)))
            expression = All(terms)
        if at is None:
            return rows_of(registry, session, list_versions(session, expression, sort=sort, limit=limit))
        moment = parse_moment(at)
        ids = newest_at(session, moment)
        lines = list_versions(session, expression, sort=sort, every_version=True, states=tuple(VersionState))
        listed = [line for line in lines if line.version.id in ids][:limit]
        rows = rows_of(registry, session, listed)
        told = [_aliases_then(session, line.identity, moment) for line in listed]
        return [replace(row, aliases=names) for row, names in zip(rows, told, strict=True)]


def _aliases_then(session: Session, identity: Any, moment: datetime) -> dict[str, int]:
    names = sorted({period.alias for period in alias_history(session, identity)})
    then = {name: alias_at(session, identity, name, moment) for name in names}
    return {name: version.number for name, version in then.items() if version is not None}


def matching_names(session: Session, patterns: Sequence[str], *, removed: bool = False) -> list[str]:
    """Names of identities in service (or ``removed`` ones too) that one of the patterns means, sorted.

    Raises:
        UsageError: a pattern too long to try.
    """
    if any(len(pattern) > _LARGEST_PATTERN for pattern in patterns):
        raise UsageError(reason=f"a pattern has at most {_LARGEST_PATTERN} characters")
    wanted = [composed(pattern).casefold() for pattern in patterns]
    tests = [text if any(mark in text for mark in "*?[") else f"*{text}*" for text in wanted]
    names = names_beginning(session, "") if removed else names_in_service(session)
    return sorted(name for name in names if any(fnmatch.fnmatchcase(name.casefold(), test) for test in tests))


def _named(names: Sequence[str]) -> Expression:
    """That an identity's name is one of these, in lists as long as the language takes."""
    field = Field("name")
    parts = [Compare(field, "in", tuple(names[i : i + 300])) for i in range(0, len(names), 300)]
    return parts[0] if len(parts) == 1 else Some(tuple(parts))


def columns_of(text: str | None) -> tuple[str, ...]:
    """The columns in ``a,b``; those shown by default where nothing was said.

    Raises:
        UsageError: a column there is not.
    """
    if text is None:
        return SHOWN
    found = tuple(composed(part.strip()) for part in text.split(",") if part.strip())
    for name in found:
        if name not in COLUMNS and not name.startswith(("label.", "tag.")):
            raise UsageError(
                reason=f"no column is named {name[:60]!r}", hint=f"there are {', '.join(COLUMNS)}, label.NAME, tag.KEY"
            )
    return found or SHOWN


def cell(row: Mapping[str, Any], column: str) -> Any:
    """What a row shows in a column; None where it has nothing there."""
    kind, dot, key = column.partition(".")
    if dot and kind in ("label", "tag"):
        return row[f"{kind}s"].get(key)
    return row[column]
