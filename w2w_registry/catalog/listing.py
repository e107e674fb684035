"""Lists of versions: filtered by a ``where`` expression, sorted, limited; and the ids a filter lets through."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from w2w_registry.catalog.assets import SERVED, Coordinates, Identity, Label, Tag, Version
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.resolve import PRESENT, subject_like
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.where import FIELDS, All, Expression, Not, Some
from w2w_registry.catalog.where_sql import AsNumber, condition, labels_of_bare_words, mentions
from w2w_registry.errors import UnknownField, UsageError
from w2w_registry.records import VersionState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SORTS = ("name", "kind", "version", "state", "residual", "created", "base_model", "space", "operation")
_SUGGESTED = 200  # at most so many labels are named, or compared with a misspelt one


class Listed(NamedTuple):
    """One line of a list."""

    version: Version
    identity: Identity
    space: Space | None


def list_versions(
    session: Session,
    where: Expression | None = None,
    *,
    sort: str = "name",
    limit: int | None = None,
    every_version: bool = False,
    states: Collection[VersionState] = PRESENT,
) -> list[Listed]:
    """The newest version of each identity (or ``every_version``) that matches.

    The newest is chosen first, then ``where`` looks at it. A ``where`` that asks for a state looks at all states.

    Args:
        sort: one of ``SORTS``, ``label.NAME`` or ``tag.KEY``; ``-`` before it for descending. What lacks it comes last.

    Raises:
        UsageError: an unknown sort.
    """
    query: Any = select(Version, Identity).join(Version.identity).outerjoin(Version.space)
    query = restrict(session, query, where, states, every_version)
    query = query.order_by(*_order(sort), Identity.name, Version.number.desc()).limit(limit)
    rows = session.execute(query).all()
    # Each space once: decoding its layout again for every version took longer than everything else here.
    ids = {version.space_id for version, _ in rows} - {None}
    spaces = {space.id: space for space in session.scalars(select(Space).where(Space.id.in_(ids)))}
    return [Listed(version, identity, spaces.get(version.space_id)) for version, identity in rows]


def matching_ids(
    session: Session, where: Expression, space_id: int | None, *, states: Collection[VersionState] = SERVED
) -> NDArray[np.int64]:
    """Ids (int64, ascending) of the versions with coordinates in the space (None: of all) that match: a search's
    filter."""
    query = select(Version.id).join(Version.identity)
    if space_id is not None:
        here = (Coordinates.version_id == Version.id) & (Coordinates.space_id == space_id)
        query = query.join(Coordinates, here)
    found = session.scalars(restrict(session, query, where, states, True).order_by(Version.id))
    import numpy as np

    return np.fromiter(found, dtype=np.int64)


def restrict(
    session: Session, query: Any, where: Expression | None, states: Collection[VersionState], every_version: bool
) -> Any:
    if where is not None and mentions(where, "state"):
        states = tuple(VersionState)
    query = query.where(Version.state.in_(states))
    if not every_version:
        newer = aliased(Version)
        query = query.where(
            ~exists().where(
                newer.identity_id == Version.identity_id, newer.number > Version.number, newer.state.in_(states)
            )
        )
    return query if where is None else query.where(matching(session, where))


def matching(session: Session, where: Expression) -> Any:
    """The condition ``where`` is, on a version joined with its identity.

    Raises:
        UnknownField: a bare word that is neither a field nor a label of any version.
    """
    words = {field.key: field for field in labels_of_bare_words(where)}
    known = set(session.scalars(select(Label.name).where(Label.name.in_(sorted(words))).distinct())) if words else set()
    for word, field in words.items():
        if word not in known:
            labels = tuple(session.scalars(select(Label.name).distinct().order_by(Label.name).limit(_SUGGESTED)))
            raise UnknownField(
                name=word,
                position=field.position,
                near=_meant(session, word, labels),
                fields=tuple(FIELDS),
                labels=labels,
            )
    return condition(_known_subjects(session, where))


def _meant(session: Session, word: str, labels: Sequence[str]) -> tuple[str, ...]:
    """What else a word may stand for: the tag of this key, which is not found without ``tag.``, else what is spelt
    alike."""
    if session.scalar(select(Tag.key).where(Tag.key == word).limit(1)) is not None:
        return (f"tag.{word}",)
    return tuple(difflib.get_close_matches(word, [*FIELDS, *labels], n=2))


def _known_subjects(session: Session, where: Expression) -> Expression:
    """The expression with subjects' ids as they are stored: they are compared without regard to case."""
    if isinstance(where, Not):
        return Not(_known_subjects(session, where.term))
    if isinstance(where, (All, Some)):
        return type(where)(tuple(_known_subjects(session, term) for term in where.terms))
    if where.field.kind != "subject" or where.operator not in ("=", "!=", "in"):
        return where
    return replace(where, values=tuple(subject_like(session, str(value)) or value for value in where.values))


def sort_columns(sort: str) -> list[Any]:
    """What a sort compares, the most important first.

    Raises:
        UsageError: an unknown sort.
    """
    name = sort.removeprefix("-")
    kind, _, key = name.partition(".")
    columns: dict[str, list[Any]] = {
        "name": [Identity.name],
        "kind": [Identity.kind],
        "version": [Version.number],
        "state": [Version.state],
        "residual": [Version.residual],
        "created": [Version.created],
        "base_model": [Version.base_model],
        "space": [Space.name, Space.number],
        "operation": [select(Operation.kind).where(Operation.id == Version.operation_id).scalar_subquery()],
    }
    if name in columns:
        return columns[name]
    if kind == "label" and key:
        of = (Label.version_id == Version.id) & (Label.name == key)
        return [select(column).where(of).scalar_subquery() for column in (Label.number, Label.text)]
    if kind == "tag" and key:
        of = (Tag.identity_id == Version.identity_id) & (Tag.key == key)
        return [select(column).where(of).scalar_subquery() for column in (AsNumber(Tag.value), Tag.value)]
    raise UsageError(reason=f"cannot sort by {name!r}", hint=f"use {', '.join(SORTS)}, label.NAME or tag.KEY")


def _order(sort: str) -> list[Any]:
    down = sort.startswith("-")
    return [(column.desc() if down else column.asc()).nulls_last() for column in sort_columns(sort)]
