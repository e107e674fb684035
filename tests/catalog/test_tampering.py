"""Whatever is changed behind the registry's back in an audited row, verification's material shows it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Boolean, Enum, LargeBinary, text
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Integer

from tests.catalog.build import T0, add_space, add_version, claims, digest, new_operation
from tests.catalog.test_session import problems
from w2w_registry.catalog.base import table_name
from w2w_registry.catalog.engine import WRITE, make_engine, parse_url
from w2w_registry.catalog.fingerprints import Fingerprint, SpaceFingerprint, VerdictCalibration
from w2w_registry.catalog.likeness import WeightsSketch
from w2w_registry.catalog.models import (
    Alias,
    AliasChange,
    Base,
    ConsentEvent,
    ConsentEventType,
    ConsentRecord,
    Direction,
    Former,
    GuardReference,
    Hold,
    Picture,
    PictureVersion,
    Release,
    SourceFile,
    SpaceMember,
    Subject,
    Takedown,
    Version,
    VersionSubject,
    Withdrawal,
    audited_models,
)
from w2w_registry.catalog.policies import make_policy
from w2w_registry.catalog.rows import key_text, present_digests, primary_key, table_of
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.types import Json, Number, UtcDateTime
from w2w_registry.records import ConsentState


def fill(catalog: Catalog) -> None:
    """At least one row in every audited table, every column with something in it where the table allows."""
    with catalog.write("tester") as uow:
        space = add_space(uow, fit_set_digest=digest("f"), fit_size=3, base_revision="r", explained_variance=[0.5])
        parent = add_version(uow, "parent", space, labels={"beard": 0.5, "job": "cook"}, tags={"team": "ads"})
        version = add_version(uow, "child", space, parents=[parent], base_revision="r", preview_digest=digest("p"))
        uow.add(Subject(id="s1", kind="person", created=T0))
        record = ConsentRecord(
            id="r1", subject_id="s1", state=ConsentState.GRANTED, schema_version="1", purposes=["research"], created=T0,
            recipients=[], expires_at=T0, guardian="g",
        )  # fmt: skip
        withdrawal = Withdrawal(id="w1", subject_id="s1", plan={"versions": [1]}, erase=True, phase="block", started=T0)
        release = Release(
            version=version, endpoint="https://hub.example", repo_id="a/b", commit_id="c", revision="main",
            visibility="private", format="peft", digests={"x": "y"}, created=T0,
        )  # fmt: skip
        file = SourceFile(
            version=version, sha256=digest("s"), model_digest=digest("m"), format="peft", dtype="f32", name="x",
            size=5, created=T0,
        )  # fmt: skip
        fitted = uow.add(new_operation("direction", seed=1))
        direction = Direction(
            space_id=space.id, name="beard", attribute="beard", vector=b"\0" * 16, method="logistic",
            digest=digest("d"), operation_id=fitted.id, created=T0, quality={"auroc": 0.96},
        )  # fmt: skip
        guard = GuardReference(
            subject_id="s1", space_id=space.id, kind="hash", salt=b"1", reference=b"2", threshold=0.5, created=T0
        )
        picture = Picture(mark=7, digest=digest("p"), operation="generate", seed=1, event_seq=1, made=T0)
        uow.add_all([record, withdrawal, release, file, direction, guard, picture, make_policy({"purpose": "art"}, T0)])
        uow.session.flush()
        uow.add_all(
            [
                ConsentEvent(
                    record_id=record.id, subject_id="s1", type=ConsentEventType.GRANT, at=T0, entity="controller"
                ),
                Takedown(id="t1", release=release, withdrawal_id=withdrawal.id, wanted=["hide"], created=T0),
                VersionSubject(version_id=version.id, subject_id="s1"),
                PictureVersion(picture_id=picture.id, version_id=version.id),
                Alias(identity_id=version.identity_id, name="production", version_id=version.id),
                AliasChange(identity_id=version.identity_id, alias="production", version_id=version.id, at=T0),
                Former(version_id=version.id, what="label", name="job", text="baker", at=T0),
                SpaceFingerprint(space_id=space.id, part=0, base=digest("b"), question="q", data=b"\0" * 8),
                SpaceMember(space_id=space.id, position=0, model_digest=digest("m"), name="n"),
                *likeness(version, parent.id),
            ]
        )
        uow.event("everything")


def likeness(version: Version, like: int) -> list[Base]:
    """What is kept of what a version is and draws, and of whom it resembles."""
    return [
        WeightsSketch(version_id=version.id, kind="k", norm=1.0, cell=1 << 41, data=b"\0" * 8),
        Fingerprint(version_id=version.id, base=digest("b"), question="q", data=b"\0" * 8),
        Hold(version_id=version.id, like_id=like, by="weights", why="kind", score=0.5, created=T0),
        VerdictCalibration(base=digest("b"), question="q", repeats=16, people=9, created=T0, data=b"\0"),
    ]


def other_value(column: Any, value: Any) -> Any:
    """A value the column could hold, other than the one it holds, in the database's own form."""
    kind = column.type
    if isinstance(kind, Boolean):
        return not value
    if isinstance(kind, Enum):
        return next(word for word in kind.enums if word != value)
    if isinstance(kind, UtcDateTime):
        return "2020-01-01T00:00:00.000000Z"
    if isinstance(kind, Json):
        return '{"tampered":1}'
    if isinstance(kind, LargeBinary):
        return b"tampered"
    if isinstance(kind, (Number, Integer, BigInteger)):
        return (value or 0) + 1000
    return f"{'y' if str(value).startswith('x') else 'x'}{(value or '')[1:]}"


COLUMNS = [(model, column.name) for model in audited_models() for column in table_of(model).columns]


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    fill(catalog)
    return catalog


def test_every_column_of_every_audited_table_is_covered(filled: Catalog, catalog_url: str) -> None:
    assert problems(filled) == []
    engine = make_engine(parse_url(catalog_url))
    with engine.connect() as connection:
        connection.execution_options(**{WRITE: True})
        for model, column in COLUMNS:
            check_column(filled, connection, model, column)
    engine.dispose()


def check_column(catalog: Catalog, connection: Any, model: type[Base], name: str) -> None:
    table, keys = table_name(model), primary_key(model)
    column = table_of(model).columns[name]
    sqlite = connection.dialect.name == "sqlite"
    with connection.begin():
        connection.exec_driver_sql(
            "PRAGMA defer_foreign_keys=ON" if sqlite else "SET session_replication_role = replica"
        )
        picked = ", ".join(key.name for key in keys)
        row = connection.execute(text(f'SELECT {picked}, "{name}" FROM "{table}" ORDER BY {picked} LIMIT 1')).one()
        where = " AND ".join(f"{key.name} = :k{i}" for i, key in enumerate(keys))
        bound = {f"k{i}": value for i, value in enumerate(row[:-1])}
        new, old = other_value(column, row[-1]), row[-1]
        if sqlite:
            connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
        cast = ":v" if sqlite or not isinstance(column.type, UtcDateTime) else "CAST(:v AS timestamptz)"
        change = f'UPDATE "{table}" SET "{name}" = {cast} WHERE {where}'
        if table == "label" and name in ("number", "text") and not sqlite:
            connection.execute(text("ALTER TABLE label DROP CONSTRAINT IF EXISTS ck_label_one_value"))
        if table == "release" and name in ("version_id", "space_id") and not sqlite:
            connection.execute(text("ALTER TABLE release DROP CONSTRAINT IF EXISTS ck_release_one_thing"))
        connection.execute(text(change), {**bound, "v": new})
        assert problems_in(connection, model), f"{table}.{name}: {old!r} -> {new!r} went unnoticed"
        connection.get_transaction().rollback()


def problems_in(connection: Any, *models: type[Base]) -> set[str]:
    """Tables (of these models, or of all) with rows at odds with what events say, as this transaction sees them."""
    session = Session(connection)
    names = {table_name(model) for model in models or audited_models()}
    claimed = {(c.table, c.key): c.digest for c in claims(session) if c.table in names}
    present = {
        (table_name(model), key_text(key)): found
        for model in models or audited_models()
        for key, found in present_digests(session, model)
    }
    return {place[0] for place in claimed.keys() | present.keys() if claimed.get(place) != present.get(place)}


@pytest.mark.parametrize("model", audited_models(), ids=table_name)
def test_a_deleted_row_is_missed(filled: Catalog, catalog_url: str, model: type[Base]) -> None:
    engine = make_engine(parse_url(catalog_url))
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
        connection.execution_options(**{WRITE: True})
        with connection.begin() as transaction:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET session_replication_role = replica")
            connection.execute(text(f'DELETE FROM "{table_name(model)}"'))
            assert problems_in(connection) == {table_name(model)}
            transaction.rollback()
    engine.dispose()


def test_a_value_no_column_should_hold_is_a_finding_not_an_error(sqlite_catalog: Catalog, sqlite_url: str) -> None:
    fill(sqlite_catalog)
    engine = make_engine(parse_url(sqlite_url))
    with engine.connect() as connection:
        connection.execution_options(**{WRITE: True})
        for statement in (
            "UPDATE version SET created = 'yesterday', number = 'two', residual = 'much'",
            "UPDATE operation SET params = '{not json', seed = x'00'",
            "UPDATE coordinates SET data = 'text', k = 1.5",
            "UPDATE consent_record SET derivatives = 7",
        ):
            with connection.begin() as transaction:
                connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
                connection.execute(text(statement))
                assert problems_in(connection) == {statement.split()[1]}
                transaction.rollback()
    engine.dispose()
