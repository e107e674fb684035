"""Pages of a list sorted by a label: its values walked along their index, then whoever lacks it.

A label's value is a number or a text. Asked for in one query, with what lacks it last, no index can be followed, and
every page sorts the whole list (180 ms for 100,000); numbers asked for by themselves come along their index.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import and_, exists, null, or_, select
from sqlalchemy.orm import Session, aliased

from w2w_registry.catalog.assets import Identity, Label, Version
from w2w_registry.catalog.listing import restrict
from w2w_registry.catalog.where import Expression
from w2w_registry.records import VersionState

Key = tuple[Any, ...]
NUMBER, TEXT, NOTHING = range(3)
PARTS: Final = (NUMBER, TEXT, NOTHING)


def page_by_label(
    session: Session,
    where: Expression | None,
    *,
    label: str,
    down: bool,
    limit: int,
    after: Key | None,
    before: Key | None,
    states: Collection[VersionState],
) -> list[Any]:
    """Rows (version, identity, number, text, name) that follow key ``after``, or come last of those before ``before``
    (then the last first). A key is a row's last three."""
    back = before is not None and after is None
    key = before if back else after
    first = None if key is None else NUMBER if key[0] is not None else TEXT if key[1] is not None else NOTHING
    found: list[Any] = []
    for part in reversed(PARTS) if back else PARTS:
        if first is not None and (part > first if back else part < first):
            continue
        query = _part(part, label, down != back, back, key if part == first else None)
        query = restrict(session, query, where, states, every_version=False)
        found += session.execute(query.limit(limit - len(found))).all()
        if len(found) >= limit:
            break
    return found


def _part(part: int, label: str, descending: bool, back: bool, key: Key | None) -> Any:
    """The query for one part of the list, from ``key`` on."""
    of = aliased(Label)
    name_after: Any = None if key is None else Identity.name < key[-1] if back else Identity.name > key[-1]
    by_name = Identity.name.desc() if back else Identity.name.asc()
    if part == NOTHING:
        query: Any = select(Version, Identity, null().label("key_0"), null().label("key_1"), Identity.name)
        lacks = ~exists().where(of.version_id == Version.id, of.name == label)
        query = query.join(Version.identity).where(lacks).order_by(by_name)
        return query if name_after is None else query.where(name_after)
    value = of.number if part == NUMBER else of.text
    query = select(Version, Identity, of.number.label("key_0"), of.text.label("key_1"), Identity.name)
    query = query.join(Version.identity).join(of, and_(of.version_id == Version.id, of.name == label))
    query = query.where(value.is_not(None)).order_by(value.desc() if descending else value.asc(), by_name)
    if key is None:
        return query
    at = key[part]
    beyond, upto = (value < at, value <= at) if descending else (value > at, value >= at)
    return query.where(upto, or_(beyond, name_after))
