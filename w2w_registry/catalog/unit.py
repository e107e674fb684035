"""The unit of work: one write transaction, whose every change is told by an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy import event as listen
from sqlalchemy.orm import Session, object_mapper
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.session import ORMExecuteState

from w2w_registry.catalog.assets import Coordinates, Version
from w2w_registry.catalog.base import Base, Salted, new_salt
from w2w_registry.catalog.clock import EventClock
from w2w_registry.catalog.event_log import ChainHead, Event
from w2w_registry.catalog.events import last_moment
from w2w_registry.catalog.former import Former, ended, ended_at_once
from w2w_registry.catalog.policies import Policy
from w2w_registry.catalog.rows import (
    Key,
    chunked,
    has_key,
    key_text,
    object_digest,
    present_digests,
    primary_key,
    table_of,
)
from w2w_registry.catalog.staging import NewRow, insert_rows, model_of, write
from w2w_registry.catalog.types import normal_json, normalised, storable
from w2w_registry.errors import IntegrityError
from w2w_registry.records import iso

EventHash = Callable[[str, Mapping[str, Any]], str]
Row = TypeVar("Row", bound=Base)


@dataclass(frozen=True)
class _Waiting:
    """An event to be written together with its staged ``rows``; ``changes`` are those of rows in the session."""

    action: str
    objects: Mapping[str, Any]
    payload: Mapping[str, Any]
    rows: list[Base | NewRow]
    changes: list[list[Any]]


class UnitOfWork:
    """A write transaction. ``session`` for queries and ORM work; every change is journaled by ``event``."""

    def __init__(self, session: Session, actor: str, event_hash: EventHash, clock: Callable[[], datetime]) -> None:
        self.session = session
        self.actor = storable(actor)
        self._hash = event_hash
        # on PostgreSQL this lock makes writers take turns; SQLite's BEGIN IMMEDIATE has done so already
        head = session.execute(select(ChainHead.seq, ChainHead.hash).with_for_update()).one_or_none()
        if head is None:
            raise IntegrityError(what="chain head", name="chain_head", expected="one row", found="none")
        self._seq, self._head = head
        self._start = self._seq
        self._changes: dict[tuple[type[Base], Key], tuple[str, Base | str | None]] = {}
        self._staged: list[Base | NewRow] = []
        self._waiting: list[_Waiting] = []
        listen.listen(session, "before_flush", self._before_flush)
        listen.listen(session, "after_flush", self._after_flush)
        listen.listen(session, "do_orm_execute", _refuse_bulk)
        self._policy = self._policy_digest()
        self._clock = EventClock(session, last_moment(session), clock)

    def now(self) -> datetime:
        """The present, never before the last event."""
        return self._clock.now()

    def note_clock(self, *, said: bool) -> bool:
        """A clock that is wrong is an event, one for every opening of the catalog (``said``: this one has said so).
        Returns whether it is wrong."""
        wrong = self._clock.wrong()
        if wrong is not None and not said:
            self.event(wrong[0], {}, seconds=wrong[1])
        return wrong is not None

    def _policy_digest(self) -> str | None:
        newest = select(Policy.digest).order_by(Policy.id.desc()).limit(1)
        return self.session.connection().execute(newest).scalar()

    @property
    def next_seq(self) -> int:
        """Sequence number the next event will have."""
        return self._seq + 1 + len(self._waiting)

    def add(self, row: Row) -> Row:
        """Add a row and flush, so that its id is known."""
        self._settle()
        self.session.add(row)
        self.session.flush()
        return row

    def add_all(self, rows: Iterable[Base]) -> None:
        """Add rows; they are flushed with the next event."""
        self.session.add_all(rows)

    def delete(self, row: Base) -> None:
        self.session.delete(row)

    def event(self, action: str, objects: Mapping[str, Any] | None = None, **payload: Any) -> int:
        """Append one event for every row changed since the last; returns its sequence number.

        ``objects`` (kind -> id or ids) and ``payload`` stay for ever: ids and digests, never personal data.
        """
        self._settle()
        self._mark_versions()
        entry = self._entry(action, objects or {}, self._take_changes(), payload)
        self.session.connection().execute(insert(table_of(Event)), entry)
        return self._seq

    def stage(self, *rows: Base | NewRow) -> None:
        """New rows of the next staged event, to be written with many others (``catalog.staging``); by then at the
        latest they know what they refer to, by key or by relationship. They do not enter the session."""
        for row in rows:
            if isinstance(row, NewRow):
                if row.model is Version:
                    row.values["changed_seq"] = self.next_seq
            elif isinstance(row, Version):
                row.changed_seq = self.next_seq
        self._staged += rows

    def stage_event(self, action: str, objects: Mapping[str, Any] | None = None, **payload: Any) -> int:
        """As ``event``, for what was staged and changed since the last; written before anything else is, or at
        ``settle``. ``objects`` may name staged rows: their ids stand in the event."""
        if self.session.new or self.session.dirty or self.session.deleted:
            self.session.flush()
        seq, rows = self.next_seq, self._staged
        told = {id(_placed(row)) for row in rows if model_of(row) is Coordinates}
        assert told <= {id(row) for row in rows}, "coordinates are staged with the version they belong to"
        self._waiting.append(_Waiting(action, objects or {}, payload, rows, self._take_changes()))
        self._staged = []
        return seq

    def settle(self) -> None:
        """Write what is staged."""
        self._settle()

    def _settle(self) -> None:
        self.session.flush()
        if not self._staged and not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        left, self._staged = self._staged, []
        connection = self.session.connection()
        written = write(connection, [row for one in waiting for row in one.rows] + left)
        entries = []
        for one in waiting:
            changes = [
                [model.__tablename__, key_text(key), "insert", digest]
                for model, key, digest in (written[id(row)] for row in one.rows)
                if model.audited
            ]
            objects = {kind: _id_of(value) for kind, value in one.objects.items()}
            entries.append(self._entry(one.action, objects, one.changes + changes, one.payload))
        if entries:
            insert_rows(connection, Event, entries)
        for row in left:
            model, key, digest = written[id(row)]
            if model.audited:
                self._changes[model, key] = "insert", digest

    def _entry(
        self, action: str, objects: Mapping[str, Any], changes: list[list[Any]], payload: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The next event's row; the chain goes on from it."""
        seq, at = self._seq + 1, self.now()
        told, told_text = normalised(objects)
        said, said_text = normalised(payload)
        body = {
            "seq": seq,
            "at": iso(at),
            "actor": self.actor,
            "action": storable(action),
            "objects": told,
            "changes": changes,
            "payload": said,
        }
        if self._policy is not None:
            body["policy"] = self._policy
        new_hash = self._hash(self._head, body)
        texts = {"objects": told_text, "changes": normal_json(changes), "payload": said_text}
        entry = {"policy": None, **body, **texts, "at": at, "prev_hash": self._head, "hash": new_hash}
        self._seq, self._head, self._clock.last = seq, new_hash, at
        if any(table == Policy.__tablename__ for table, *_ in changes):  # decided under the one that ends here
            self._policy = self._policy_digest()
        return entry

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What fails inside is undone, events included, and the error goes on; the transaction can go on too."""
        self._settle()
        # digests of what was changed before are then taken from the tables: the objects may have been changed since
        before = self._seq, self._head, {place: (operation, None) for place, (operation, _) in self._changes.items()}
        try:
            with self.session.begin_nested():
                yield
                self._settle()
        except BaseException:
            self._staged, self._waiting = [], []
            self._seq, self._head = before[:2]
            self._changes = dict(before[2])
            self.session.expire_all()  # the session itself forgets only what it changed, not bulk changes
            raise

    # -- many rows at once ------------------------------------------------------------------------
    def bulk_insert(self, model: type[Base], rows: Sequence[Mapping[str, Any]]) -> list[Key]:
        """Insert rows given as column -> value; returns their primary keys, in order."""
        if not rows:
            return []
        self._settle()
        columns = primary_key(model)
        values = [{**self._stamp(model), **row} for row in rows]
        if all(column.name in rows[0] for column in columns):
            keys: list[Key] = [tuple(row[column.name] for column in columns) for row in rows]
            self.session.connection().execute(insert(table_of(model)), values)
        else:
            statement = insert(table_of(model)).returning(*columns, sort_by_parameter_order=True)
            keys = [tuple(row) for row in self.session.connection().execute(statement, values)]
        self._record(model, keys, "insert")
        return keys

    def bulk_update(self, model: type[Base], keys: Iterable[Key | Any], values: Mapping[str, Any]) -> int:
        """Set the same plain ``values`` in the rows with these primary keys (a key of one column may be bare)."""
        wanted = self._existing(model, keys)
        self.bulk_insert(Former, ended_at_once(self.session, model, wanted, values, self.now()))
        values = {**values, **self._stamp(model)}
        salts = {key: new_salt() for key in wanted} if issubclass(model, Salted) else {}
        connection = self.session.connection()
        for chunk in chunked(wanted):
            if salts:  # one for each row, or the old digest could still be guessed at
                columns = primary_key(model)
                connection.execute(
                    update(table_of(model))
                    .where(*(column == bindparam(f"_{column.name}") for column in columns))
                    .values(**values, salt=bindparam("_salt")),
                    [
                        {"_salt": salts[key], **{f"_{c.name}": v for c, v in zip(columns, key, strict=True)}}
                        for key in chunk
                    ],
                )
            elif values:
                connection.execute(update(table_of(model)).where(has_key(model, chunk)).values(**values))
        for key in wanted:
            row = self._loaded(model, key)
            if row is not None:
                for name, value in {**values, **({"salt": salts[key]} if salts else {})}.items():
                    set_committed_value(row, name, value)
        self._record(model, wanted, "update")
        return len(wanted)

    def bulk_delete(self, model: type[Base], keys: Iterable[Key | Any]) -> int:
        """Delete the rows with these primary keys. What they said is kept nowhere (``former``): it is forgotten."""
        wanted = self._existing(model, keys)
        for chunk in chunked(wanted):
            self.session.connection().execute(delete(table_of(model)).where(has_key(model, chunk)))
        for key in wanted:
            row = self._loaded(model, key)
            if row is not None:
                self.session.expunge(row)
        self._record(model, wanted, "delete")
        return len(wanted)

    def keys(self, model: type[Base], *where: Any) -> list[Key]:
        """Primary keys of the rows that match, in key order."""
        columns = primary_key(model)
        return [tuple(row) for row in self.session.execute(select(*columns).where(*where).order_by(*columns))]

    # -- bookkeeping ------------------------------------------------------------------------------
    def _existing(self, model: type[Base], keys: Iterable[Key | Any]) -> list[Key]:
        """Those of the keys that have a row, as tuples."""
        self._settle()
        columns = primary_key(model)
        found: list[Key] = []
        for chunk in chunked(key if isinstance(key, tuple) else (key,) for key in keys):
            query = select(*columns).where(has_key(model, chunk))
            found += [tuple(row) for row in self.session.connection().execute(query)]
        return found

    def _loaded(self, model: type[Base], key: Key) -> Base | None:
        """The object the session already holds of a row."""
        found: Base | None = self.session.identity_map.get((model, key, None))
        return found

    def _stamp(self, model: type[Base]) -> dict[str, Any]:
        return {"changed_seq": self.next_seq} if model is Version else {}

    def _is_new(self, model: type[Base], key: int) -> bool:
        return self._changes.get((model, (key,)), ("", None))[0] == "insert"

    def _before_flush(self, session: Session, _context: Any, _instances: Any) -> None:
        session.add_all(ended(session, self.now(), self._is_new))
        for row in session.new:
            if isinstance(row, Version):
                row.changed_seq = self.next_seq
        for row in session.dirty:
            if session.is_modified(row):
                if isinstance(row, Version):
                    row.changed_seq = self.next_seq
                elif isinstance(row, Salted):
                    row.salt = new_salt()

    def _after_flush(self, session: Session, _context: Any) -> None:
        for row in session.new:
            self._note(row, "insert")
        for row in session.dirty:
            if session.is_modified(row):
                self._note(row, "update")
        for row in session.deleted:
            self._note(row, "delete")

    def _note(self, row: Base, operation: str) -> None:
        if type(row).audited:
            key = tuple(object_mapper(row).primary_key_from_instance(row))
            self._merge(type(row), key, operation, row)

    def _record(self, model: type[Base], keys: Iterable[Key], operation: str) -> None:
        if model.audited:
            for key in keys:
                self._merge(model, key, operation, None)

    def _merge(self, model: type[Base], key: Key, operation: str, row: Base | None) -> None:
        before = self._changes.pop((model, key), (None, None))[0]
        if before == "insert" and operation == "delete":
            return
        if before == "insert" and operation == "update":
            operation = "insert"
        elif before == "delete" and operation == "insert":
            operation = "update"
        self._changes[model, key] = operation, row

    def _mark_versions(self) -> None:
        """Versions whose coordinates changed are changed too: an index is topped up by their ``changed_seq``."""
        touched = {key[1] for model, key in self._changes if model is Coordinates}
        stale = sorted(v for v in touched if (Version, (v,)) not in self._changes)
        if stale:
            self.bulk_update(Version, stale, {})

    def _take_changes(self) -> list[list[Any]]:
        digests: dict[tuple[type[Base], Key], str] = {}
        unread: dict[type[Base], list[Key]] = {}
        for (model, key), (operation, row) in self._changes.items():
            if operation == "delete":
                continue
            if isinstance(row, str):
                digests[model, key] = row
            elif row is not None:
                digests[model, key] = object_digest(row)
            else:
                unread.setdefault(model, []).append(key)
        for model, keys in unread.items():
            digests.update(((model, key), digest) for key, digest in present_digests(self.session, model, keys))
        changes = [
            [model.__tablename__, key_text(key), operation, digests.get((model, key))]
            for (model, key), (operation, _) in self._changes.items()
        ]
        self._changes.clear()
        return changes

    def _finish(self) -> None:
        self._settle()
        unjournaled = sorted({str(model.__tablename__) for model, _ in self._changes})
        assert not unjournaled, f"changed without an event: {', '.join(unjournaled)}"
        if self._seq != self._start:
            self.session.connection().execute(
                update(table_of(ChainHead)).where(ChainHead.id == 1).values(seq=self._seq, hash=self._head)
            )


def _placed(row: Base | NewRow) -> Any:
    """The version that staged coordinates are of."""
    return row.values.get("version_id") if isinstance(row, NewRow) else getattr(row, "version", None)


def _id_of(value: Any) -> Any:
    """The id of a row, or the value itself when it is none."""
    if isinstance(value, NewRow):
        return value.key[0]
    return object_mapper(value).primary_key_from_instance(value)[0] if isinstance(value, Base) else value


def _refuse_bulk(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise AssertionError("write through the unit of work's bulk methods, so that the change reaches the journal")
