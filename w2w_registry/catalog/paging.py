"""Pages of a list by key: where one page ends the next begins, however deep, at the price of the first.

A key is what a row is sorted by, then its name, which no other row of the list has. ``OFFSET`` would read and throw
away everything before a page; comparing with a key does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, func, or_, select, type_coerce
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Identity, Label, Tag, Version
from w2w_registry.catalog.label_pages import page_by_label
from w2w_registry.catalog.listing import Listed, restrict, sort_columns
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.types import Words
from w2w_registry.catalog.where import Expression
from w2w_registry.records import VersionState

Key = tuple[Any, ...]
"""Values of the sort's columns (None last in either direction), then the name."""


class Keyed(NamedTuple):
    """One line of a list and its key."""

    line: Listed
    key: Key


def page_versions(
    session: Session,
    where: Expression | None = None,
    *,
    sort: str = "name",
    limit: int,
    after: Key | None = None,
    before: Key | None = None,
    states: Collection[VersionState] = PRESENT,
) -> list[Keyed]:
    """As ``list_versions``, the ``limit`` lines that follow key ``after``, or come last of those before ``before``.

    Raises:
        UsageError: an unknown sort. UnknownField: ``where`` asks for what there is not.
    """
    if sort.removeprefix("-").startswith("label."):
        return _by_label(session, where, sort, limit, after, before, states)
    columns, down = _columns(sort)
    keys = [column.label(f"key_{i}") for i, column in enumerate([*columns, Identity.name])]
    query: Any = select(Version, Identity, *keys).join(Version.identity)
    if _of_spaces(sort):
        query = query.outerjoin(Version.space)
    query = restrict(session, query, where, states, every_version=False)
    if after is not None:
        query = query.where(_beyond(columns, down, after))
    elif before is not None:
        query = query.where(_short_of(columns, down, before))
    back = before is not None and after is None
    query = query.order_by(*_order(columns, down, back)).limit(limit)
    return _keyed(session, session.execute(query).all(), back=back)


def _by_label(
    session: Session,
    where: Expression | None,
    sort: str,
    limit: int,
    after: Key | None,
    before: Key | None,
    states: Collection[VersionState],
) -> list[Keyed]:
    sort_columns(sort)  # says so when there is no such sort
    label, down = sort.removeprefix("-").partition(".")[2], sort.startswith("-")
    rows = page_by_label(session, where, label=label, down=down, limit=limit, after=after, before=before, states=states)
    return _keyed(session, rows, back=before is not None and after is None)


def _keyed(session: Session, rows: Sequence[Any], *, back: bool) -> list[Keyed]:
    spaces = _spaces(session, {row[0].space_id for row in rows})
    found = [Keyed(Listed(row[0], row[1], spaces.get(row[0].space_id)), tuple(row[2:])) for row in rows]
    return found[::-1] if back else found


def key_at(
    session: Session, where: Expression | None, *, sort: str, number: int, total: int | None = None
) -> Key | None:
    """The key of the ``number``-th line, for a jump to what follows it; None when the list is shorter.

    This one does count its way there, but keys alone and nothing else of a row, and from the nearer end where it is
    known how many lines there are (``total``).
    """
    skipped, back = number - 1, False
    if total is not None and number > total // 2:
        skipped, back = total - number, True
    if skipped < 0:
        return None
    columns, down = _columns(sort)
    query: Any = select(*(c.label(f"key_{i}") for i, c in enumerate([*columns, Identity.name])))
    query = query.select_from(Version).join(Version.identity)
    if _of_spaces(sort):
        query = query.outerjoin(Version.space)
    query = restrict(session, query, where, PRESENT, False).order_by(*_order(columns, down, back))
    row = session.execute(query.offset(skipped).limit(1)).first()
    return None if row is None else tuple(row)


def _of_spaces(sort: str) -> bool:
    return sort.removeprefix("-") == "space"


def _spaces(session: Session, ids: set[int | None]) -> dict[int | None, Space]:
    """Each space once: decoding its layout again for every version took longer than everything else here."""
    wanted = ids - {None}
    if not wanted:
        return {}
    return {space.id: space for space in session.scalars(select(Space).where(Space.id.in_(wanted)))}


def facet_counts(session: Session, where: Expression | None = None) -> tuple[int, dict[str, dict[str, int]]]:
    """How many the list has, and how many by kind, by state and by space, the most frequent first. One pass."""
    columns = (type_coerce(Identity.kind, Words), type_coerce(Version.state, Words), Version.space_id)
    query: Any = select(*columns, func.count()).select_from(Version).join(Version.identity)
    rows = session.execute(restrict(session, query, where, PRESENT, False).group_by(*columns)).all()
    refs = {row.id: row.ref for row in session.scalars(select(Space))}
    counts: dict[str, Counter[str]] = {"kind": Counter(), "state": Counter(), "space": Counter()}
    for kind, state, space, number in rows:
        counts["kind"][kind] += number
        counts["state"][state] += number
        if space is not None:
            counts["space"][refs[space]] += number
    ordered = {
        facet: dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))) for facet, found in counts.items()
    }
    return sum(row[3] for row in rows), ordered


def tag_counts(session: Session, where: Expression | None = None, limit: int = 30) -> list[tuple[str, str, int]]:
    """The most used tags of what the list has: (key, value, identities)."""
    query: Any = select(Tag.key, Tag.value, func.count()).join(Identity, Tag.identity_id == Identity.id)
    query = restrict(session, query.join(Version, Version.identity_id == Identity.id), where, PRESENT, False)
    query = query.group_by(Tag.key, Tag.value).order_by(func.count().desc(), Tag.key, Tag.value).limit(limit)
    return [(key, value, number) for key, value, number in session.execute(query)]


def label_names(session: Session, limit: int = 200) -> list[str]:
    """The first names of labels there are; each costs one look into the index, however many versions have it."""
    name = select(func.min(Label.name).label("name")).cte("label_names", recursive=True)
    following = select(func.min(Label.name)).where(Label.name > name.c.name).scalar_subquery()
    name = name.union_all(select(following).where(name.c.name.is_not(None)))
    return list(session.scalars(select(name.c.name).where(name.c.name.is_not(None)).limit(limit)))


def _columns(sort: str) -> tuple[list[Any], bool]:
    """The columns to sort by besides the name, as plain values, and whether they run downwards."""
    if sort.removeprefix("-") == "name":
        return [], sort.startswith("-")
    plain: Mapping[str, Any] = {"kind": Words, "state": Words}
    kind = plain.get(sort.removeprefix("-"))
    found = [type_coerce(c, kind) if kind else c for c in sort_columns(sort)]
    return found, sort.startswith("-")


def _order(columns: Sequence[Any], down: bool, back: bool) -> list[Any]:
    # The name runs downwards only when it is what is sorted by.
    name_down = (down and not columns) != back
    name = Identity.name.desc() if name_down else Identity.name.asc()
    turned = [(c, c.desc() if down != back else c.asc()) for c in columns]
    # An index cannot be followed where it has to be said what becomes of values there cannot be.
    return [*(t if _never_none(c) else t.nulls_first() if back else t.nulls_last() for c, t in turned), name]


def _never_none(column: Any) -> bool:
    """Whether every line has a value to sort by."""
    return getattr(column, "nullable", True) is False


def _beyond(columns: Sequence[Any], down: bool, key: Key) -> Any:
    """After ``key`` in the order, what has no value coming last."""
    name = key[-1]
    found: Any = Identity.name < name if down and not columns else Identity.name > name
    for column, value in reversed(list(zip(columns, key[:-1], strict=True))):
        if value is None:
            found = and_(column.is_(None), found)
        elif _never_none(column):
            further, upto = (column < value, column <= value) if down else (column > value, column >= value)
            found = and_(upto, or_(further, found))  # the first says where in an index to begin
        else:
            further = column < value if down else column > value
            found = or_(further, column.is_(None), and_(column == value, found))
    return found


def _short_of(columns: Sequence[Any], down: bool, key: Key) -> Any:
    """Before ``key`` in the order."""
    name = key[-1]
    found: Any = Identity.name > name if down and not columns else Identity.name < name
    for column, value in reversed(list(zip(columns, key[:-1], strict=True))):
        if value is None:
            found = or_(column.is_not(None), and_(column.is_(None), found))
        elif _never_none(column):
            nearer, upto = (column > value, column >= value) if down else (column < value, column <= value)
            found = and_(upto, or_(nearer, found))
        else:
            nearer = column > value if down else column < value
            found = and_(column.is_not(None), or_(nearer, and_(column == value, found)))
    return found
