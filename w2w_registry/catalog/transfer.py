"""A whole catalog into another database, row by row with every digest compared afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Integer, Table, bindparam, func, insert, select, text, update
from sqlalchemy.orm import Session

from w2w_registry.catalog import schema
from w2w_registry.catalog.base import audited_models, table_name
from w2w_registry.catalog.engine import WRITE, database_errors, make_engine, parse_url, safe_url
from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.models import Base
from w2w_registry.catalog.rows import present_digests
from w2w_registry.errors import Conflict, IntegrityError
from w2w_registry.records import Result

_CHUNK = 500


@dataclass(frozen=True, eq=False)
class Copied(Result):
    """Rows by table, and the events' last hash: the same in both databases."""

    source: str
    target: str
    rows: dict[str, int]
    head: str | None


def copy_catalog(source: str, target: str) -> Copied:
    """Copy every table into ``target``, an empty or new database, in one transaction; then compare every audited row
    and the log.

    Raises:
        Conflict: there is a registry in the target already. IntegrityError: something did not arrive as it was
            (nothing is kept then). DatabaseError, SettingError.
    """
    from_url, to_url = parse_url(source), parse_url(target)
    schema.upgrade(target)
    with database_errors(from_url):
        reader = make_engine(from_url)
    with database_errors(to_url):
        writer = make_engine(to_url)
    try:
        with database_errors(to_url), _reading(reader) as origin, writer.connect() as there:
            there = there.execution_options(**{WRITE: True})
            with there.begin():
                _only_empty(there, safe_url(to_url))
                rows = {table.name: _copy(origin, there, table) for table in Base.metadata.sorted_tables}
                _continue_numbers(there)
                _compare(origin, there)
                head = there.execute(select(Event.hash).order_by(Event.seq.desc()).limit(1)).scalar()
        return Copied(safe_url(from_url), safe_url(to_url), rows, head)
    finally:
        reader.dispose()
        writer.dispose()


def _reading(engine: Engine) -> Connection:
    """A connection that sees one state of the database all along."""
    connection = engine.connect()
    if connection.dialect.name == "postgresql":
        connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return connection


def _only_empty(there: Connection, name: str) -> None:
    """Nothing may be there but what making the schema left."""
    if there.execute(select(func.count()).select_from(Event)).scalar():
        raise Conflict(what="database", name=name, reason="holds a registry already; name an empty one")
    for table in reversed(Base.metadata.sorted_tables):
        if table.name not in ("event", "checkpoint"):
            there.execute(table.delete())


def _copy(origin: Connection, there: Connection, table: Table) -> int:
    """Every row. A reference to a row of the same table (a record that supersedes another) is filled in afterwards:
    keys do not say which of two was there first."""
    keys = list(table.primary_key.columns)
    within = [column for column in table.columns if any(key.column.table is table for key in column.foreign_keys)]
    later: dict[str, list[dict[str, Any]]] = {column.name: [] for column in within}
    result = origin.execution_options(yield_per=_CHUNK).execute(select(table).order_by(*keys))
    count = 0
    for part in result.mappings().partitions(_CHUNK):
        for name, pairs in later.items():
            pairs += [{"at": row[keys[0].name], "to": row[name]} for row in part if row[name] is not None]
        there.execute(insert(table), [{**row, **dict.fromkeys(later)} for row in part])
        count += len(part)
    for name, pairs in later.items():
        if pairs:
            there.execute(update(table).where(keys[0] == bindparam("at")).values({name: bindparam("to")}), pairs)
    return count


def _continue_numbers(there: Connection) -> None:
    """PostgreSQL's counters go on after the rows that were copied."""
    if there.dialect.name != "postgresql":
        return
    for table in Base.metadata.sorted_tables:
        keys = list(table.primary_key.columns)
        if len(keys) != 1 or not isinstance(keys[0].type, Integer):
            continue
        counter = there.execute(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": keys[0].name}
        ).scalar()
        last: Any = there.execute(select(func.max(keys[0]))).scalar()
        if counter is not None and last is not None:
            there.execute(text("SELECT setval(:counter, :last)"), {"counter": counter, "last": last})


def _compare(origin: Connection, there: Connection) -> None:
    """Every audited row has the same digest on both sides, every event the same hash."""
    with Session(origin) as left, Session(there) as right:
        for model in audited_models():
            mine, theirs = dict(present_digests(left, model)), dict(present_digests(right, model))
            if mine != theirs:
                key = next(k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k))
                raise IntegrityError(
                    what="row",
                    name=f"{table_name(model)} {key}",
                    expected=mine.get(key, "nothing"),
                    found=theirs.get(key, "nothing"),
                )
        hashes = [list(s.execute(select(Event.seq, Event.hash).order_by(Event.seq)).tuples()) for s in (left, right)]
        if hashes[0] != hashes[1]:
            raise IntegrityError(what="log", name="event", expected="the same hashes", found="others")
