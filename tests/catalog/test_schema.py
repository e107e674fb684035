"""The schema: built by migrating, equal to the models, triggers and all, and gone again on the way down."""

from __future__ import annotations

import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psycopg
import pytest
from sqlalchemy import inspect, select

from tests.catalog.build import add_space, add_version
from tests.catalog.test_session import problems, raw
from tests.catalog.test_tampering import fill
from w2w_registry.audit.chain import GENESIS, event_hash
from w2w_registry.catalog import events, schema
from w2w_registry.catalog.engine import make_engine, parse_url
from w2w_registry.catalog.models import Base, WeightsSketch
from w2w_registry.catalog.resolve import all_spaces
from w2w_registry.catalog.session import HEAD, Catalog
from w2w_registry.errors import Conflict, DatabaseError, NotInitialised
from w2w_registry.migrations import restating
from w2w_registry.services.recording.versions import sketches_values
from w2w_registry.space.sketch import SIZE, Sketch, cells


def test_the_code_knows_the_newest_migration() -> None:
    assert schema.head() == HEAD


def test_migrating_gives_what_the_models_say(empty_url: str) -> None:
    assert schema.upgrade(empty_url) == HEAD
    assert schema.current(empty_url) == HEAD
    assert schema.check(empty_url) == []
    catalog = Catalog(empty_url, event_hash=event_hash)
    with catalog.read() as session:
        assert events.chain_head(session) == (0, GENESIS)
    catalog.close()


def test_upgrading_again_changes_nothing(catalog: Catalog, catalog_url: str) -> None:
    with catalog.write("tester") as uow:
        add_space(uow)
    assert schema.upgrade(catalog_url) == HEAD
    assert problems(catalog) == []


def test_down_to_nothing_and_up_again(catalog_url: str) -> None:
    assert schema.downgrade(catalog_url, "base") is None
    engine = make_engine(parse_url(catalog_url))
    with engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    engine.dispose()
    assert len(schema.check(catalog_url)) >= len(Base.metadata.tables)
    assert schema.upgrade(catalog_url) == HEAD
    assert schema.check(catalog_url) == []


def test_events_of_before_a_column_still_hold(catalog: Catalog, catalog_url: str) -> None:
    with catalog.write("tester") as uow:
        add_version(uow, "a", add_space(uow))
    schema.downgrade(catalog_url, "0001")
    schema.upgrade(catalog_url)
    assert schema.check(catalog_url) == []
    assert problems(catalog) == []
    raw(catalog_url, "UPDATE version SET adapter = 'LoHa'")
    assert problems(catalog)


def test_what_the_older_schema_cannot_hold_is_not_lost(catalog: Catalog, catalog_url: str) -> None:
    with catalog.write("tester") as uow:
        add_version(uow, "a", add_space(uow)).space_id = None
        uow.event("test")
    with pytest.raises(Conflict, match="1 version"):
        schema.downgrade(catalog_url, "0001")
    assert schema.check(catalog_url) == []


def test_a_sketch_is_looked_up_by_what_the_migration_filled_in(catalog: Catalog, catalog_url: str) -> None:
    drawn = [Sketch(np.random.default_rng(i).normal(size=SIZE).astype(np.float32), 4.0) for i in range(3)]
    with catalog.write("tester") as uow:
        space = add_space(uow)
        for i, values in enumerate(sketches_values(drawn)):
            version = add_version(uow, f"p{i}", space)
            uow.add(WeightsSketch(version_id=version.id, **values))
        uow.event("test")
    schema.downgrade(catalog_url, "0009")
    raw(catalog_url, "UPDATE weights_sketch SET norm = norm + 1 WHERE version_id = 3")
    schema.upgrade(catalog_url)
    with catalog.read() as session:
        assert (
            list(session.scalars(select(WeightsSketch.cell).order_by(WeightsSketch.version_id)))[:2] == cells(drawn)[:2]
        )
    assert len(problems(catalog)) == 1  # what was changed by hand is found, and nothing else
    raw(catalog_url, "UPDATE weights_sketch SET norm = norm - 1 WHERE version_id = 3")
    assert schema.check(catalog_url) == []


def test_rows_that_a_migration_alters_are_stated_anew(catalog: Catalog, catalog_url: str) -> None:
    fill(catalog)
    schema.downgrade(catalog_url, "0009")
    schema.upgrade(catalog_url)
    assert problems(catalog) == []  # and those of a table that went are gone by the log as well


def test_what_a_downgrade_drops_is_gone_by_the_log_too(catalog: Catalog, catalog_url: str) -> None:
    fill(catalog)
    for statement in (
        "UPDATE version SET state = 'active' WHERE state = 'held'",
        "DELETE FROM guard_reference WHERE space_id IS NULL",
    ):
        raw(catalog_url, statement)
    before = problems(catalog)  # what was just altered by hand
    schema.downgrade(catalog_url, "0003")
    schema.upgrade(catalog_url)
    assert problems(catalog) == before


def test_a_policy_that_events_followed_is_not_lost(catalog: Catalog, catalog_url: str) -> None:
    fill(catalog)
    with catalog.write("tester") as uow:
        add_version(uow, "later", all_spaces(uow.session)[0])
        uow.event("test")
    with pytest.raises(Conflict, match="name the policy they followed"):
        schema.downgrade(catalog_url, "0003")


def test_tables_are_dropped_with_a_word() -> None:
    folder = Path(restating.__file__).parent / "versions"
    assert [path.name for path in sorted(folder.glob("v*.py"))[1:] if "op.drop_table(" in path.read_text("utf-8")] == []


def test_sketches_once_altered_without_a_word_are_stated_later(
    catalog: Catalog, catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [Sketch(np.random.default_rng(i).normal(size=SIZE).astype(np.float32), 4.0) for i in range(3)]
    with catalog.write("tester") as uow:
        space = add_space(uow)
        for i, values in enumerate(sketches_values(drawn)):
            uow.add(WeightsSketch(version_id=add_version(uow, f"p{i}", space).id, **values))
        uow.event("test")
    schema.downgrade(catalog_url, "0009")
    unsaid: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(restating, "state", lambda connection, table, digests, revision: unsaid.extend(digests))
        schema.upgrade(catalog_url, "0010")
    assert len(unsaid) == 3
    raw(catalog_url, "UPDATE weights_sketch SET norm = norm + 1 WHERE version_id = 1")
    raw(catalog_url, "UPDATE weights_sketch SET cell = cell + 1 WHERE version_id = 2")
    schema.upgrade(catalog_url)
    assert len(problems(catalog)) == 2


def test_upgrading_at_once_happens_once(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: schema.upgrade(empty_url), range(4))) == [HEAD] * 4
    assert schema.check(empty_url) == []


def test_asking_creates_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    for ask in (schema.current, schema.check):
        with pytest.raises(NotInitialised):
            ask(url)
    assert list(tmp_path.iterdir()) == []


def test_odd_paths_work(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/50% of it?/ünï #1/catalog.db"
    assert schema.upgrade(url) == HEAD
    assert (tmp_path / "50% of it?" / "ünï #1" / "catalog.db").exists()
    assert schema.check(url) == []


def test_a_right_that_is_missing_is_said(postgres_url: str, empty_postgres_url: str) -> None:
    """A role that may only read reads; what it may not do changes nothing and is one line."""
    name = f"r{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    try:
        catalog = Catalog(postgres_url.replace("//postgres:", f"//{name}:"), event_hash=event_hash)
        with catalog.read() as session:
            assert all_spaces(session) == []
        with pytest.raises(DatabaseError, match="permission denied"), catalog.write("tester"):
            pass
        with pytest.raises(DatabaseError, match="permission denied"):
            schema.upgrade(empty_postgres_url.replace("//postgres:", f"//{name}:"))
        catalog.close()
    finally:
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {name}")
            connection.execute(f"DROP ROLE {name}")


def test_a_percent_sign_in_the_password_works(postgres_server: str, empty_postgres_url: str) -> None:
    url = empty_postgres_url.replace("postgres:@", "postgres:100%25@")
    assert schema.upgrade(url) == HEAD


def test_sqlite_is_in_wal_mode_and_syncs_fully(sqlite_catalog: Catalog, sqlite_url: str) -> None:
    with sqlite_catalog.read() as session:
        connection = session.connection()
        found = [connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")]
        assert found == ["wal", 2]
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DROP TABLE chain_head", "add table: chain_head"),
        ("CREATE TABLE extra (id INTEGER)", "remove table: extra"),
        ("ALTER TABLE job ADD COLUMN extra INTEGER", "remove column: job extra"),
        ("DROP INDEX ix_version_changed_seq", "add index: ix_version_changed_seq"),
        ("ALTER TABLE version DROP COLUMN base_revision", "add column: version base_revision"),
    ],
)
def test_drift_of_tables_is_found(catalog_url: str, statement: str, expected: str) -> None:
    raw(catalog_url, statement)
    assert schema.check(catalog_url) == [expected]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["DROP TRIGGER event_no_update"], "missing trigger: event_no_update"),
        (
            [
                "DROP TRIGGER event_no_delete",
                "CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT 1; END",
            ],
            "trigger differs: event_no_delete",
        ),
        (
            ["CREATE TRIGGER sly AFTER INSERT ON label BEGIN DELETE FROM label; END"],
            "unknown trigger: sly",
        ),
    ],
)
def test_drift_of_triggers_is_found_on_sqlite(sqlite_url: str, statements: list[str], expected: str) -> None:
    for statement in statements:
        raw(sqlite_url, statement)
    assert schema.check(sqlite_url) == [expected]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DROP TRIGGER event_append_only ON event", "missing trigger: event_append_only"),
        ("ALTER TABLE event DISABLE TRIGGER event_in_sequence", "trigger differs: event_in_sequence"),
        (
            "CREATE OR REPLACE FUNCTION w2w_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN NULL; END; $$",
            "function differs: w2w_append_only",
        ),
        ("ALTER TABLE label DROP CONSTRAINT ck_label_one_value", "missing constraint: ck_label_one_value"),
        (
            "ALTER TABLE version DROP CONSTRAINT ck_version_state, "
            "ADD CONSTRAINT ck_version_state CHECK (state IN ('active', 'other'))",
            "constraint differs: ck_version_state",
        ),
        ('ALTER TABLE identity ALTER COLUMN name TYPE varchar COLLATE "default"', "modify type: identity name"),
    ],
)
def test_drift_is_found_on_postgresql(postgres_url: str, statement: str, expected: str) -> None:
    raw(postgres_url, statement)
    found = schema.check(postgres_url)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_words_outside_a_closed_set_are_refused(sqlite_catalog: Catalog, sqlite_url: str) -> None:
    with sqlite_catalog.write("tester") as uow:
        add_space(uow)
    with pytest.raises(Exception, match="ck_space_state"):
        raw(sqlite_url, "UPDATE space SET state = 'else'")


def test_ids_of_deleted_rows_are_not_given_again(sqlite_url: str) -> None:
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    insert = "INSERT INTO identity (name, kind, created, salt) VALUES (?, 'person', '', '')"
    first = connection.execute(insert, ["a"]).lastrowid
    connection.execute("DELETE FROM identity")
    assert connection.execute(insert, ["a"]).lastrowid == (first or 0) + 1
    connection.close()
