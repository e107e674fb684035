"""Transactions: ``Catalog.read()`` and ``Catalog.write(actor)``, every change with its audit event.

catalog = Catalog(url, event_hash=audit.chain.event_hash)
with catalog.write("p0007") as uow:
    identity = uow.add(Identity(name="acme/alice", kind=Kind.PERSON, created=uow.now()))
    uow.event("identity.add", objects={"identity": identity.id})
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final, NamedTuple

import sqlalchemy.exc as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from w2w_registry.catalog.clock import SEEN, WATCH_EVERY, Watch
from w2w_registry.catalog.engine import (
    CACHE_KIB,
    WRITE,
    database_errors,
    make_engine,
    overwrite_freed,
    parse_url,
    safe_url,
    schema_version,
)
from w2w_registry.catalog.moment import forget, remember
from w2w_registry.catalog.unit import EventHash, UnitOfWork
from w2w_registry.errors import Busy, DatabaseError, SchemaOutOfDate, StorageError
from w2w_registry.records import now

_QUERY: Final = "SELECT seq FROM chain_head"


class Pulse:
    """How far the catalog has come, asked so cheaply that it can be asked before every answer: one connection past the
    ORM, in no transaction, so that each question is of the state of its instant. One thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None

    def last_change(self) -> int:
        """The number of the last event; 0 before the first.

        Raises:
            sqlalchemy.exc.DBAPIError: what the driver says; the next question opens a connection anew.
        """
        errors = self._engine.dialect.loaded_dbapi.Error
        try:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
                if self._engine.dialect.name == "postgresql":
                    self._connection.driver_connection.autocommit = True
            cursor = self._connection.cursor()
            try:
                cursor.execute(_QUERY)
                row = cursor.fetchone()
            finally:
                cursor.close()
        except errors as error:
            self.close()
            raise sa.DBAPIError.instance(_QUERY, None, error, errors) from error
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = None


class Note(NamedTuple):
    """What is to become an event when the transaction under way ends, whatever comes of that."""

    actor: str
    action: str
    objects: Mapping[str, Any]
    payload: Mapping[str, Any]


class Notes(threading.local):
    """The notes of one thread, how many reads and writes deep it is, and whether it is writing notes down."""

    def __init__(self) -> None:
        self.reading = self.writing = 0
        self.telling = False
        self.waiting: list[Note] = []

    def take(self) -> list[Note]:
        """The notes, which are then no longer waiting."""
        taken, self.waiting = self.waiting, []
        return taken


__all__ = ["HEAD", "Catalog", "EventHash", "UnitOfWork"]

_STEPS = import_module("w2w_registry.migrations.versions").__path__
HEAD = max(step.name[1:5] for step in iter_modules(_STEPS))
"""The newest migration, as its file is named; a test keeps it equal to Alembic's, which takes too long to ask at every
start."""


class _Shared(threading.local):
    """The session that the reads of one thread share."""

    session: Session | None = None


class Catalog:
    """A database of the registry. Opening is lazy; nothing is ever created or migrated here (see ``schema``).

    Args:
        url: ``sqlite:///path`` or ``postgresql://…``.
        event_hash: ``(prev_hash, body) -> hash`` of the audit chain.
        clock: the present, for events.
        busy_timeout: seconds to wait for another writer before Busy.
        looked: called with the session when a SQLite catalog is first used, and again every so often while it is.

    Events never run back in time: one is at the latest of the clock and the event before it, and a clock that was set
    back is itself an event. Decisions are made for the latest
    time known (``clock.Watch``).
    """

    def __init__(
        self,
        url: str,
        *,
        event_hash: EventHash,
        clock: Callable[[], datetime] = now,
        busy_timeout: float = 30.0,
        looked: Callable[[Session], None] = lambda session: None,
    ) -> None:
        self._url = parse_url(url)
        self._hash = event_hash
        self._clock = clock
        self._watch = Watch(self._url, lambda: self._clock())
        self._busy_timeout = busy_timeout
        self._looked = looked
        self._looked_at: float | None = None
        self._cache_kib = CACHE_KIB
        self._engine: Engine | None = None
        self._notes = Notes()
        self._said_back = False  # that the clock is behind the log, since this was opened
        self._shared = _Shared()
        self._pulse: Pulse | None = None
        self._pulse_lock = threading.Lock()

    @property
    def name(self) -> str:
        """The URL without a password."""
        return safe_url(self._url)

    @property
    def is_file(self) -> bool:
        """Whether the database is a file here rather than a server."""
        return self._url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one unchanging snapshot, which cannot write.

        Raises:
            NotInitialised, SchemaOutOfDate, DatabaseError, Busy.
        """
        if self._shared.session is not None:
            yield self._shared.session
            return
        self._notes.reading += 1
        try:
            with database_errors(self._url), self._ready().connect() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                with Session(connection, autoflush=False, expire_on_commit=False) as session:
                    self._look(session)
                    yield session
        finally:
            self._notes.reading -= 1
            self._write_notes()

    def last_change(self) -> int:
        """The number of the last event, by a connection of its own that stays open: some microseconds, so that it can
        be asked before every answer.

        Raises:
            NotInitialised, SchemaOutOfDate, DatabaseError, Busy.
        """
        with database_errors(self._url), self._pulse_lock:
            if self._pulse is None:
                self._pulse = Pulse(self._ready())
            return self._pulse.last_change()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Every ``read`` of this thread in the block is of one snapshot, opened once: for what is shown together and
        changes nothing. What was asked in it once is not asked again.

        Raises:
            NotInitialised, SchemaOutOfDate, DatabaseError, Busy.
        """
        with self.read() as session:
            outer, self._shared.session = self._shared.session, session
            remember(session)
            try:
                yield
            finally:
                self._shared.session = outer
                if outer is None:
                    forget(session)

    @contextmanager
    def write(self, actor: str) -> Iterator[UnitOfWork]:
        """One write transaction: commits at the end, rolls back on any error. Writers take turns; do not nest.

        Raises:
            NotInitialised, SchemaOutOfDate, DatabaseError, Busy.
            AssertionError: audited rows were changed without an event (a bug).
        """
        self._notes.writing += 1
        try:
            with database_errors(self._url), self._ready().connect() as connection:
                connection.execution_options(**{WRITE: True})
                if connection.dialect.name == "postgresql":  # writers wait for the head's row and then see the latest
                    connection.execution_options(isolation_level="READ COMMITTED")
                with connection.begin(), Session(connection, expire_on_commit=False) as session:
                    self._look(session)
                    unit = UnitOfWork(session, actor, self._hash, self._clock)
                    behind = unit.note_clock(said=self._said_back)
                    yield unit
                    for note in self._notes.take():
                        unit.event(note.action, note.objects, **note.payload)
                    unit._finish()
                self._said_back = behind  # and it is on record: what was rolled back has said nothing
                self._watch.begin()
        finally:
            self._notes.writing -= 1
            self._write_notes()

    def note(self, actor: str, action: str, objects: Mapping[str, Any], **payload: Any) -> None:
        """Something that must be an event even if nothing else comes of it, such as a refusal: it is written when the
        transaction under way ends, also when that fails or only reads; at once when there is none."""
        self._notes.waiting.append(Note(actor, action, objects, payload))
        self._write_notes()

    def note_once(self, actor: str, action: str, objects: Mapping[str, Any]) -> None:
        """As ``note``, unless the very same is waiting to be written."""
        note = Note(actor, action, objects, {})
        if note not in self._notes.waiting:
            self._notes.waiting.append(note)
            self._write_notes()

    @property
    def lost_time(self) -> bool:
        """Whether nothing beside a SQLite catalog says when it was last used."""
        return self._watch.lost

    def _look(self, session: Session) -> None:
        session.info[SEEN] = self._watch.look()
        moment = time.monotonic()
        if self._looked_at is None or moment - self._looked_at >= WATCH_EVERY.total_seconds() or self._watch.lost:
            self._looked_at = moment
            if self.is_file and not self._notes.telling:
                self._looked(session)

    def _write_notes(self) -> None:
        if self._notes.reading or self._notes.writing or not self._notes.waiting:
            return
        notes, self._notes.telling = self._notes.take(), True
        try:
            # A registry that cannot be written (an archive) still says no; it just cannot remember that it did.
            with suppress(DatabaseError, Busy, StorageError), self.write(notes[0].actor) as unit:
                for note in notes:
                    unit.event(note.action, note.objects, **note.payload)
        finally:
            self._notes.telling = False

    def scrub(self) -> None:
        """After an erasure: leave no copy of what is gone in the database's own files (SQLite; PostgreSQL's vacuum
        does it there).

        Raises:
            Busy: another process is writing.
        """
        with database_errors(self._url):
            overwrite_freed(self._ready())

    def bound_cache(self, kib: int) -> None:
        """From here on a connection that reads keeps at most so much of a SQLite file in memory: for a process of many
        connections, whose caches add up. Each commit by another process empties them anyway; the system's own cache,
        which all share, stays."""
        self.close()
        self._cache_kib = kib

    def close(self) -> None:
        """Close every connection."""
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _ready(self) -> Engine:
        if self._engine is None:
            engine = make_engine(self._url, busy_timeout=self._busy_timeout, cache_kib=self._cache_kib)
            with engine.connect() as connection:
                current = schema_version(connection)
            if current != HEAD:
                engine.dispose()
                raise SchemaOutOfDate(current=current, head=HEAD)
            self._engine = engine
        return self._engine
