"""Engines for the two databases, and what their errors mean.

SQLite runs in WAL mode with ``synchronous=FULL``: an acknowledged commit survives kill -9 and power loss.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy.exc as sa
from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url, text

from w2w_registry.errors import Busy, DatabaseError, MissingExtra, NotInitialised, SettingError, StorageError

WRITE = "w2w_write"  # execution option of a connection that will write
# Keys are random, so a walk over a large family touches pages all over: 64 MB of them stay (the default is 2).
CACHE_KIB = 65_536
_KEPT = "w2w_cache_kib"  # in the info of a connection: the pages it keeps, as last set
_POSTGRESQL = "postgresql+psycopg"
_BUSY_SQLSTATES = {"55P03", "40P01", "40001"}  # lock not available, deadlock, serialisation failure
_FORBIDDEN = "42501"  # insufficient privilege: a role that may only read, or that owns no schema


def parse_url(url: str) -> URL:
    """The URL with its driver filled in.

    Raises:
        SettingError: neither a SQLite file nor PostgreSQL.
    """
    prefix, is_file, path = url.partition("sqlite:///")
    if is_file and not prefix and path not in ("", ":memory:"):
        return URL.create("sqlite", database=path)  # as it is: a folder's name may hold '?', '%' or '#'
    try:
        parsed = make_url(url)
    except (sa.ArgumentError, ValueError):  # ValueError: a port that is not a number
        raise SettingError(setting="database", value=masked(url), reason="not a database URL") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername=_POSTGRESQL)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        raise SettingError(setting="database", value=url, reason="a registry needs a file: sqlite:////path/catalog.db")
    if backend not in ("sqlite", "postgresql"):
        raise SettingError(setting="database", value=safe_url(parsed), reason="use sqlite:///… or postgresql://…")
    if backend == "postgresql" and parsed.drivername != _POSTGRESQL:
        reason = f"the driver here is psycopg: {_POSTGRESQL}://…"
        raise SettingError(setting="database", value=safe_url(parsed), reason=reason)
    return parsed


def masked(text: str) -> str:
    """The text with the password of every URL in it starred out, as :func:`safe_url` does for one that parses."""
    return re.sub(r"(?<=://)([^:/@\s]*):[^@/\s]*@", r"\1:***@", text)


def safe_url(url: URL) -> str:
    """The URL without its password, for people."""
    if url.get_backend_name() == "sqlite":  # a path, which need not be text: SQLAlchemy would quote it
        return f"sqlite:///{url.database or ''}"
    return url.render_as_string(hide_password=True)


def make_engine(url: URL, *, create: bool = False, busy_timeout: float = 30.0, cache_kib: int = CACHE_KIB) -> Engine:
    """An engine. Nothing is opened yet, and a SQLite file comes into being only with ``create``.

    Args:
        busy_timeout: seconds to wait for another writer.
        cache_kib: how much of a SQLite file each connection keeps in memory while it reads; one that writes keeps
            ``CACHE_KIB``.

    Raises:
        MissingExtra: PostgreSQL without its driver. NotInitialised: no such SQLite file. DatabaseError: it is none.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite(Path(str(url.database)), url, create, busy_timeout, cache_kib)
    try:
        engine = create_engine(url, connect_args={"options": f"-c lock_timeout={int(busy_timeout * 1000)}"})
    except ModuleNotFoundError as error:
        raise MissingExtra(package=error.name or "psycopg", extra="postgres", feature="a PostgreSQL catalog") from None
    return engine


def overwrite_freed(engine: Engine) -> None:
    """On SQLite, write the file anew and fold the write-ahead log into it: pages that were split or moved hold copies
    of rows that ``secure_delete`` does not reach, and the log holds pages as they were."""
    if engine.dialect.name != "sqlite":
        return
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        for statement in ("PRAGMA query_only=OFF", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            cursor.execute(statement)
        cursor.close()
    except sqlite3.Error as error:
        raise sa.OperationalError("VACUUM", None, error) from error
    finally:
        connection.close()


@contextmanager
def database_errors(url: URL) -> Iterator[None]:
    """Turn what the database says into Busy or DatabaseError. Broken constraints and SQL are bugs: they pass."""
    try:
        yield
    except sa.DBAPIError as error:
        cause = _cause(error)
        if getattr(cause, "sqlstate", None) in _BUSY_SQLSTATES or getattr(cause, "sqlite_errorcode", 0) & 0xFF in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        ):
            raise Busy(what="database", name=safe_url(url)) from error
        full = getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        if full or getattr(cause, "sqlstate", None) == "53100":
            raise StorageError(path=safe_url(url), reason="the disk is full; nothing was changed") from error
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
            raise StorageError(path=safe_url(url), reason=f"{cause}: the disk or a quota on it may be full") from error
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
            reason = "read-only here, so nothing was changed; a copy made by `backup` and `restore` can be written"
            raise DatabaseError(url=safe_url(url), reason=reason) from error
        if getattr(cause, "sqlstate", None) == _FORBIDDEN:
            reason = f"{_first_line(cause)}; nothing was changed: ask whoever runs the database for the right"
            raise DatabaseError(url=safe_url(url), reason=reason) from error
        # sqlite3.DatabaseError itself (not a subclass) is "malformed" and "not a database"
        if (
            isinstance(error, (sa.OperationalError, sa.InterfaceError, sa.InternalError))
            or type(error) is sa.DatabaseError
        ):
            raise DatabaseError(url=safe_url(url), reason=_first_line(cause)) from error
        raise


def _first_line(cause: Any) -> str:
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def _cause(error: sa.DBAPIError) -> Any:
    """What the driver said first: SQLite takes a transaction back by itself when it cannot write, and what is asked of
    it after that (the savepoint) is gone."""
    before: BaseException | None = error
    while before is not None and "no such savepoint" in str(error.orig):
        before = before.__context__
        error = before if isinstance(before, sa.DBAPIError) else error
    return error.orig


def _mode(path: Path) -> str:
    """How to open a file: to read and write, or, in a folder where nothing may be written (an archive, a NAS), as one
    that nobody changes: SQLite would else want to make its log and index beside it."""
    if os.access(path.parent, os.W_OK):
        return "mode=rw"
    log = path.with_name(f"{path.name}-wal")
    return "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"


class _Unchanging(sqlite3.Connection):
    """One that reads a file as if nobody changed it: for one use, since somebody may later."""


def _no_room(path: Path, error: sqlite3.Error) -> bool:
    """Whether a file cannot be opened because there is no room for its log and index. With nothing in a log it can be
    read as one that nobody changes: whoever wrote would have a log."""
    log = path.with_name(f"{path.name}-wal")
    failed = getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    )
    return failed and not (log.exists() and log.stat().st_size)


def _sqlite(path: Path, url: URL, create: bool, busy_timeout: float, cache_kib: int) -> Engine:
    path = path.expanduser()
    if not create and not path.exists():
        raise NotInitialised(what="registry", name=str(path), home=str(path.parent))
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(url=safe_url(url), reason=error.strerror or str(error)) from error
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists() and not file.is_file():  # to open a pipe is to wait for ever, which no signal ends
            raise DatabaseError(url=safe_url(url), reason=f"{file.name} is not a regular file")
    address = f"file:{quote(os.fsencode(path.absolute()))}?"  # a path need not be text

    def opened(mode: str, kind: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
        connection = sqlite3.connect(
            address + mode, uri=True, timeout=busy_timeout, isolation_level=None, check_same_thread=False, factory=kind
        )
        try:
            connection.execute("PRAGMA schema_version")  # the first that reads: it makes the log and its index
        except BaseException:
            connection.close()
            raise
        return connection

    def connect() -> sqlite3.Connection:
        try:
            connection = opened("mode=rwc" if create else _mode(path))
        except sqlite3.OperationalError as error:
            if create or not _no_room(path, error):
                raise
            connection = opened("mode=ro&immutable=1", _Unchanging)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten, not left in the file
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)  # the default is one for in-memory files

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        if isinstance(connection, _Unchanging) and record.info.setdefault("used", 0):
            raise sa.DisconnectionError  # there may be room by now, and something new: open it again
        record.info["used"] = 1

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # the driver starts no transaction of its own (isolation_level=None). A writer takes the lock at once, so that
        # it waits for its turn instead of failing halfway; a reader cannot write by mistake.
        writes = connection.get_execution_options().get(WRITE, False)
        if writes and isinstance(connection.connection.dbapi_connection, _Unchanging):
            raise StorageError(path=safe_url(url), reason="the disk is full; nothing was changed")
        connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        kept = CACHE_KIB if writes else cache_kib
        if connection.info.get(_KEPT) != kept:
            connection.exec_driver_sql(f"PRAGMA cache_size=-{kept}")
            connection.info[_KEPT] = kept
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def schema_version(connection: Connection) -> str | None:
    """Revision the database is at, None when it has none."""
    try:
        with connection.begin_nested() if connection.in_transaction() else connection.begin():
            found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return found
    except (sa.OperationalError, sa.ProgrammingError) as error:
        if "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01":
            return None
        raise
