"""Digests of audited rows: what events record when a row changes, and what verification recomputes.

A digest is SHA-256 over the canonical JSON of ``[table, {column: canonical form}]``, the same on SQLite and
PostgreSQL. Erasable columns are hidden behind the row's salt (``base.Salted``). A migration
that drops or rewrites a column of an audited table states its rows anew (``migrations.restating``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import ARRAY, BigInteger, Select, Table, bindparam, column, func, select, tuple_, type_coerce
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from w2w_registry.catalog.base import Base, table_name
from w2w_registry.catalog.types import canonical_form, stored_form
from w2w_registry.records import digest_of

Key = tuple[Any, ...]
_T = TypeVar("_T")
CHUNK = 500  # keys per statement: far under either database's limit on parameters


def table_of(model: type[Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


def row_digest(model: type[Base], values: Mapping[str, Any]) -> str:
    """Digest (hex) of a row given as column name -> Python value."""
    row = {}
    late = _late(model)
    for name, form in _forms(model):
        value = values[name]
        if value is not None:
            row[name] = form(value)
        elif name not in late:
            row[name] = None
    return digest_of([table_name(model), row])


def object_digest(row: Base) -> str:
    """Digest of a mapped object that has been flushed."""
    return row_digest(type(row), _Attributes(row))


def key_text(key: Key) -> str:
    """A primary key as events name it: ``12``, or ``3/12`` when it has two columns."""
    return "/".join(map(str, key))


def primary_key(model: type[Base]) -> Sequence[Any]:
    return list(table_of(model).primary_key.columns)


def present_digests(
    session: Session, model: type[Base], keys: Iterable[Key] | None = None
) -> Iterator[tuple[Key, str]]:
    """``(key, digest)`` of the rows in the table now: all of them in key order, or those with these keys."""
    columns = primary_key(model)
    forms = _stored_forms(model)
    width = len(columns)
    raw = [type_coerce(column, NullType()) for column in (*columns, *table_of(model).columns)]
    statement = select(*raw).order_by(*columns)
    connection = session.connection()
    if keys is None:
        results: Iterable[Any] = [connection.execute(statement.execution_options(yield_per=1000))]
    else:
        results = (connection.execute(statement.where(has_key(model, chunk))) for chunk in chunked(keys))
    for result in results:
        for values in result:
            row = {
                column: None if value is None else form(value)
                for (column, form), value in zip(forms, values[width:], strict=True)
            }
            yield tuple(values[:width]), _digest(model, row)


def has_key(model: type[Base], keys: Sequence[Key]) -> Any:
    """SQL condition: the row's primary key is one of ``keys``."""
    columns = primary_key(model)
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return tuple_(*columns).in_(keys)


def chunked(values: Iterable[_T], size: int = CHUNK) -> Iterator[list[_T]]:
    """The values in order, each once, at most ``size`` at a time: what one statement may name."""
    chunk: list[_T] = []
    for value in dict.fromkeys(values):
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _Attributes(Mapping[str, Any]):
    """A mapped object read as column name -> value (every column has its attribute's name)."""

    def __init__(self, row: Base) -> None:
        self._row = row

    def __getitem__(self, name: str) -> Any:
        return getattr(self._row, name)

    def __iter__(self) -> Iterator[str]:
        return iter(name for name, _ in _forms(type(self._row)))

    def __len__(self) -> int:
        return len(_forms(type(self._row)))


def _digest(model: type[Base], row: Mapping[str, Any]) -> str:
    late = _late(model)
    return digest_of([table_name(model), {k: v for k, v in row.items() if v is not None or k not in late}])


@cache
def _late(model: type[Base]) -> frozenset[str]:
    """Columns that digests leave out while they are NULL (``base.LATE``)."""
    return frozenset(column.name for column in table_of(model).columns if column.info.get("late"))


@cache
def _forms(model: type[Base]) -> list[tuple[str, Callable[[Any], Any]]]:
    return [(column.name, canonical_form(column.type)) for column in table_of(model).columns]


@cache
def _stored_forms(model: type[Base]) -> list[tuple[str, Callable[[Any], Any]]]:
    return [(column.name, stored_form(column.type)) for column in table_of(model).columns]


def listed(session: Session, numbers: Iterable[int]) -> Select[tuple[int]]:
    """The integers as a query of one column, ``n``: for ``column.in_(…)``, or as a subquery to go through."""
    values = list(numbers)
    if session.get_bind().dialect.name == "postgresql":
        array = bindparam(None, values, ARRAY(BigInteger), unique=True)
        return select(func.unnest(array, type_=BigInteger).column_valued("n").label("n"))
    each = func.json_each(json.dumps(values)).table_valued(column("value", BigInteger))
    return select(each.c.value.label("n"))
