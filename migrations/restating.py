"""Altering an audited table without breaking its rows' digests.

Events hold the digest of every audited row, taken over all its columns; dropping or rewriting a column changes it. A
migration that does so works inside ``restated``: rows whose digest was what the log said it was are stated anew by an
event of the migration itself. A row that had been tampered with is not: verification goes on finding it.

(A new column that may be NULL needs none of this: see ``catalog.base.LATE``.) A table goes by ``drop``, never by
Alembic's own, or the log would go on speaking of rows that nobody can find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import NullType, TypeEngine

from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.types import Json, UtcDateTime, stored_form
from w2w_registry.records import digest_of, iso, now

ACTOR = "w2w-reg db upgrade"
_CHANGES = 5000  # rows stated by one event
Columns = Mapping[str, TypeEngine[Any]]

_EVENT = sa.table(
    "event",
    sa.column("seq", sa.BigInteger()),
    sa.column("at", UtcDateTime()),
    sa.column("actor", sa.String()),
    sa.column("action", sa.String()),
    sa.column("objects", Json()),
    sa.column("changes", Json()),
    sa.column("payload", Json()),
    sa.column("prev_hash", sa.String()),
    sa.column("hash", sa.String()),
)


@contextmanager
def restated(
    connection: sa.Connection, table: str, key: Sequence[str], before: Columns, after: Columns, revision: str
) -> Iterator[None]:
    """Alter ``table`` in the block; ``before`` and ``after``: its columns with their types, in the catalog's own form.

    Args:
        key: its primary key. revision: the migration's, for the event.
    """
    claimed = claims(connection, table)
    sound = {row for row, digest in _digests(connection, table, key, before) if claimed.get(row) == digest}
    yield
    stated = {row: digest for row, digest in _digests(connection, table, key, after) if row in sound}
    state(connection, table, stated, revision)


def state(connection: sa.Connection, table: str, digests: Mapping[str, str], revision: str) -> None:
    """Append events that say which digests these rows (primary key -> digest) have from now on."""
    changes = [[table, row, "update", digest] for row, digest in digests.items()]
    for start in range(0, len(changes), _CHANGES):
        _append(connection, changes[start : start + _CHANGES], {"table": table, "revision": revision})


def drop(table: str, revision: str) -> None:
    """Drop an audited table, after events that say that its rows are deleted: what a downgrade does with its own."""
    connection = op.get_bind()
    changes = [[table, row, "delete", None] for row, digest in claims(connection, table).items() if digest is not None]
    for start in range(0, len(changes), _CHANGES):
        _append(connection, changes[start : start + _CHANGES], {"table": table, "revision": revision})
    op.drop_table(table)


def claims(connection: sa.Connection, table: str) -> dict[str, str | None]:
    """Primary key -> digest, as the last event about each row has it."""
    named = sa.text("SELECT changes FROM event WHERE changes LIKE :table ORDER BY seq")
    found: dict[str, str | None] = {}
    for (text,) in connection.execute(named, {"table": f'%"{table}"%'}):
        for change in json.loads(text):
            if change[0] == table:
                found[change[1]] = change[3]
    return found


def _digests(connection: sa.Connection, table: str, key: Sequence[str], columns: Columns) -> Iterator[tuple[str, str]]:
    forms: dict[str, Callable[[Any], Any]] = {name: stored_form(kind) for name, kind in columns.items()}
    query = sa.select(*(sa.column(name, NullType()) for name in columns)).select_from(sa.table(table))
    for row in connection.execute(query.order_by(*(sa.column(name) for name in key))).mappings().all():
        yield "/".join(str(row[name]) for name in key), _digest(table, row, forms)


def digest_as(table: str, row: Mapping[str, Any], columns: Columns) -> str:
    """The digest of a row as the driver returns it, were these its table's columns."""
    return _digest(table, row, {name: stored_form(kind) for name, kind in columns.items()})


def _digest(table: str, row: Mapping[str, Any], forms: Mapping[str, Callable[[Any], Any]]) -> str:
    return digest_of([table, {n: None if row[n] is None else form(row[n]) for n, form in forms.items()}])


def _append(connection: sa.Connection, changes: list[list[Any]], payload: dict[str, Any]) -> None:
    seq, head = connection.execute(sa.text("SELECT seq, hash FROM chain_head")).one()
    at = now()
    body: dict[str, Any] = {
        "seq": seq + 1,
        "at": iso(at),
        "actor": ACTOR,
        "action": "schema.restate",
        "objects": {},
        "changes": changes,
        "payload": payload,
    }
    digest = event_hash(head, body)
    connection.execute(sa.insert(_EVENT), {**body, "at": at, "prev_hash": head, "hash": digest})
    connection.execute(sa.text("UPDATE chain_head SET seq = :seq, hash = :hash"), {"seq": seq + 1, "hash": digest})
