"""The schema's life: upgrade, current, check, downgrade. Alembic is found through the installed package."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import CheckConstraint, Connection, Enum, inspect, text
from sqlalchemy.exc import OperationalError

from w2w_registry.catalog import triggers
from w2w_registry.catalog.engine import WRITE, database_errors, make_engine, parse_url, schema_version
from w2w_registry.catalog.models import Base

_UPGRADE_LOCK = 7_732_772_801  # PostgreSQL advisory lock: one migration at a time


def head() -> str:
    """Newest revision this release knows."""
    from alembic.script import ScriptDirectory

    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def current(url: str) -> str | None:
    """Revision of the database, None when it has no schema.

    Raises:
        NotInitialised: no such SQLite file. DatabaseError: it cannot be reached.
    """
    with _connection(url) as connection:
        return schema_version(connection)


def upgrade(url: str, revision: str = "head") -> str:
    """Bring the database to ``revision`` in one transaction, creating a SQLite file; returns where it is now."""
    from alembic import command

    with _connection(url, create=True) as connection:
        if connection.dialect.name == "sqlite":
            connection.execution_options(**{WRITE: True})
            # outside any transaction; kept in the file from then on
            cursor = connection.connection.cursor()
            # Of an empty file: two vectors of 1,000 components fit a page, where each took two of the default's.
            for statement in ("PRAGMA page_size=8192", "PRAGMA journal_mode=WAL"):
                try:
                    cursor.execute(statement)
                except sqlite3.Error as error:
                    raise OperationalError(statement, None, error) from error
            cursor.close()
        with connection.begin():
            _one_at_a_time(connection)
            command.upgrade(_config(connection), revision)
        found = schema_version(connection)
        assert found is not None
        return found


def downgrade(url: str, revision: str) -> str | None:
    """Take the database back to ``revision`` (``base``: no schema at all). What the newer one held is lost."""
    from alembic import command

    with _connection(url) as connection:
        connection.execution_options(**{WRITE: True})
        with connection.begin():
            _one_at_a_time(connection)
            command.downgrade(_config(connection), revision)
        return schema_version(connection)


def check(url: str) -> list[str]:
    """What differs between this release's models and the database, one line each; empty when nothing does."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with _connection(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": _type_differs})
        found = [_describe(difference) for difference in _flat(compare_metadata(context, Base.metadata))]
        return found + _check_constraints(connection) + _check_triggers(connection)


def _config(connection: Connection | None = None) -> Any:
    from alembic.config import Config

    config = Config()
    location = import_module("w2w_registry.migrations").__file__
    assert location is not None
    folder = str(Path(location).parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection  # never through a URL option, where '%' would be interpolated
    return config


@contextmanager
def _connection(url: str, *, create: bool = False) -> Iterator[Connection]:
    parsed = parse_url(url)
    with database_errors(parsed):
        engine = make_engine(parsed, create=create)
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


def _one_at_a_time(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})


def _flat(differences: Any) -> Iterator[tuple[Any, ...]]:
    for difference in differences:
        if isinstance(difference, list):
            yield from _flat(difference)
        else:
            yield difference


def _type_differs(context: Any, _inspected: Any, _column: Any, found: Any, wanted: Any) -> bool:
    """As the database spells them: the collation counts, and a decorated type is what it is on this database."""
    compiler = context.dialect.type_compiler_instance
    return bool(compiler.process(found) != compiler.process(wanted))


def _describe(difference: tuple[Any, ...]) -> str:
    action, *rest = difference
    names = [
        str(getattr(part, "name", None) or part) for part in rest if part is not None and not isinstance(part, dict)
    ]
    return f"{action.replace('_', ' ')}: {' '.join(names)}"


def _check_constraints(connection: Connection) -> list[str]:
    """Alembic does not compare CHECK constraints: by name, and for closed sets of words by their words."""
    found: list[str] = []
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    for table in Base.metadata.sorted_tables:
        if table.name not in present:
            continue  # compare_metadata has said so
        have = {str(c["name"]): c["sqltext"] for c in inspector.get_check_constraints(table.name)}
        want = {str(c.name): c for c in table.constraints if isinstance(c, CheckConstraint)}
        found += [f"missing constraint: {name}" for name in sorted(want.keys() - have.keys())]
        found += [f"unknown constraint: {name}" for name in sorted(have.keys() - want.keys())]
        for column in table.columns:
            name = f"ck_{table.name}_{column.type.name}" if isinstance(column.type, Enum) else ""
            if name in have and set(re.findall(r"'([^']*)'", have[name])) != set(column.type.enums):  # type: ignore[attr-defined]
                found.append(f"constraint differs: {name}")
    return found


def _check_triggers(connection: Connection) -> list[str]:
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
        return _compare("trigger", triggers.SQLITE, {str(name): str(sql) for name, sql in rows})
    rows = connection.execute(
        text(
            "SELECT t.tgname, pg_get_triggerdef(t.oid), t.tgenabled::text FROM pg_trigger t"
            " JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE NOT t.tgisinternal AND n.nspname = current_schema()"
        )
    )
    # a disabled trigger is as good as none
    have = {name: sql if enabled in "OA" else "disabled" for name, sql, enabled in rows}
    functions = connection.execute(
        text(
            "SELECT p.proname, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
            " WHERE p.proname LIKE 'w2w%' AND n.nspname = current_schema()"
        )
    )
    return _compare("trigger", triggers.POSTGRESQL, have) + _compare(
        "function", triggers.POSTGRESQL_FUNCTIONS, {str(name): str(source) for name, source in functions}
    )


def _compare(what: str, want: dict[str, str], have: dict[str, str]) -> list[str]:
    found = [f"missing {what}: {name}" for name in sorted(want.keys() - have.keys())]
    found += [f"unknown {what}: {name}" for name in sorted(have.keys() - want.keys())]
    found += [
        f"{what} differs: {name}"
        for name in sorted(want.keys() & have.keys())
        if _plain(want[name]) != _plain(have[name])
    ]
    return found


def _plain(sql: str) -> set[str]:
    """Words of a statement: PostgreSQL spells its triggers back in its own order (``INSERT OR DELETE…``)."""
    return set(re.sub(r"\b(public|\w+)\.(?=\w)", lambda m: m[0] if m[1] in ("NEW", "OLD") else "", sql).lower().split())
