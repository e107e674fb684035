"""Lists as people ask for them: by part of a name or a pattern, with any columns, and as they were on a day."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import names_in_service
from w2w_registry.catalog.listing import list_versions
from w2w_registry.catalog.where import All, Compare, Expression, Field, Some, parse_where
from w2w_registry.errors import UsageError
from w2w_registry.records import composed
from w2w_registry.services.identities.answers import IdentityRow
from w2w_registry.services.identities.as_of import browse_at
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
    """The newest version of each identity that matches, as a row.

    Args:
        patterns: names or shell patterns (``acme/*``); a word without ``*``, ``?`` or ``[`` matches the names it is
            part of, in any case. An identity is listed that matches one of them.
        at: a date or time; what was in the registry then, as it was then. ``where`` looks at what it is today, and so
            do sorts other than by name.

    Raises:
        WhereError: ``where`` does not parse. UsageError: an unknown sort, a moment that is none, a pattern too long.
    """
    expression = None if where is None else parse_where(where)
    with registry.catalog.read() as session:
        if at is not None:
            return browse_at(registry, session, _meaning(patterns), expression, sort, limit, parse_moment(at))
        if patterns:
            named = matching_names(session, patterns)
            if not named:
                return []
            terms = (_named(named), *(() if expression is None else (expression,)))
            expression = All(terms)
        return rows_of(registry, session, list_versions(session, expression, sort=sort, limit=limit))


def labelled(
    registry: Registry, patterns: Sequence[str] = (), *, where: str | None = None
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The labels of those that ``browse`` gives and that have any, by ``id`` (the identity's name), and the columns."""
    rows = [row for row in browse(registry, patterns, where=where) if row["labels"]]
    names = sorted({name for row in rows for name in row["labels"]} - {"id"})
    return [{**row["labels"], "id": row["identity"]} for row in rows], ("id", *names)


def matching_names(session: Session, patterns: Sequence[str]) -> list[str]:
    """Names of identities in service that one of the patterns means, sorted.

    Raises:
        UsageError: a pattern too long to try.
    """
    meant = _meaning(patterns)
    return sorted(name for name in names_in_service(session) if meant(name))


def _meaning(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name is one that the patterns mean; without patterns every name is."""
    if any(len(pattern) > _LARGEST_PATTERN for pattern in patterns):
        raise UsageError(reason=f"a pattern has at most {_LARGEST_PATTERN} characters")
    wanted = [composed(pattern).casefold() for pattern in patterns]
    tests = [text if any(mark in text for mark in "*?[") else f"*{text}*" for text in wanted] or ["*"]
    return lambda name: any(fnmatch.fnmatchcase(name.casefold(), test) for test in tests)


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
