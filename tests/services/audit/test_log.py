"""Checkpoints, verification, proofs and exports of a real log; a sample of tampering by raw SQL, on both databases."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from tests.services.small import Small
from w2w_registry.audit.checks import FindingCode
from w2w_registry.catalog.base import audited_models, table_name
from w2w_registry.catalog.engine import parse_url
from w2w_registry.catalog.rows import table_of
from w2w_registry.catalog.session import Catalog, UnitOfWork
from w2w_registry.consent.records import Use
from w2w_registry.errors import IntegrityError, NotFound, UsageError
from w2w_registry.services.audit import log
from w2w_registry.services.consent import withdraw
from w2w_registry.services.consent.receipts import receipt

VERIFIER = Path(__file__).parents[3] / "examples" / "verify_audit.py"


@pytest.fixture
def small(catalog: Catalog, catalog_url: str, tmp_path: Path) -> Small:
    made = Small(catalog, tmp_path)
    made.url = catalog_url
    return made


def busy(small: Small) -> None:
    """A log with something of everything, and rows in (nearly) every audited table."""
    for subject in ("s1", "s2"):
        small.grant(subject)
    a = small.add("a", "s1", labels={"beard": 1.0, "eye": "blue"}, photo="selfie")
    b = small.add("b", "s2")
    edited = small.derive("e", a)
    small.derive("m", edited, b, how=Use.MIX)
    small.release(b, "acme/b")
    small.release(edited, "acme/e")
    small.member(a)
    receipt(small.registry, "s2")
    log.checkpoint(small.registry)
    withdraw.withdraw(small.registry, "s1", protect=True)
    small.release(b, "acme/b2")


def test_an_honest_registry_verifies(small: Small) -> None:
    busy(small)
    log.checkpoint(small.registry)
    verdict = log.verify(small.registry)
    assert verdict.to_json()["findings"] == []
    assert (verdict.ok, verdict.first_bad, verdict.checkpoints) == (True, None, 2)
    assert verdict.events == len(small.events())
    assert verdict.rows > 30


def test_checkpoints(small: Small, tmp_path: Path) -> None:
    first = log.checkpoint(small.registry, out=tmp_path / "kept.txt")
    assert first["created"]
    assert (tmp_path / "kept.txt").read_text("utf-8") == first["note"]
    assert not log.checkpoint(small.registry)["created"]
    small.add("a")
    second = log.checkpoint(small.registry)
    assert second["size"] > first["size"]
    key = small.registry.settings.home / "keys" / "audit.key"
    assert key.stat().st_mode & 0o077 == 0
    assert log.verify(small.registry, kept=[first["note"], second["note"]]).ok
    stranger = log.verify(small.registry, public_key=bytes(32))
    assert {f.code for f in stranger.findings} == {FindingCode.CHECKPOINT_FORGED}


def test_a_checkpoint_broken_off_leaves_no_gap(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(uow: UnitOfWork, action: str, *_: Any, **__: Any) -> None:
        uow.session.flush()
        raise KeyboardInterrupt

    small.add("a")
    with monkeypatch.context() as dying:
        dying.setattr(UnitOfWork, "event", broken)
        with pytest.raises(KeyboardInterrupt):
            log.checkpoint(small.registry)
    assert log.checkpoint(small.registry)["created"]
    assert log.verify(small.registry).ok


def test_an_empty_log_has_nothing_to_sign(catalog: Catalog, tmp_path: Path) -> None:
    from w2w_registry.artifacts import ArtifactStore
    from w2w_registry.services.registry import Registry
    from w2w_registry.settings import Settings

    settings = Settings(tmp_path, catalog.name, "curator", str(tmp_path / "artifacts"))
    registry = Registry(settings, catalog, ArtifactStore(settings.artifacts_url))
    with pytest.raises(UsageError):
        log.checkpoint(registry)
    assert log.verify(registry).ok


@pytest.fixture(scope="module")
def verifier() -> Any:
    spec = importlib.util.spec_from_file_location("verify_audit", VERIFIER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_proofs_and_exports_convince_the_stand_alone_verifier(small: Small, tmp_path: Path, verifier: Any) -> None:
    busy(small)
    out = tmp_path / "out" / "log.jsonl"
    written = log.export(small.registry, out)
    with open(out, encoding="utf-8") as stream:
        assert verifier.check_log(stream, written["public_key"]) == (written["events"], 1, [])
    assert b"selfie" not in out.read_bytes()
    proof = json.loads(json.dumps(log.prove(small.registry, 2)))
    assert verifier.check_proof(proof, written["public_key"]) == []
    last = log.prove(small.registry, written["events"])
    assert last["checkpoint"] is None
    with pytest.raises(NotFound):
        log.prove(small.registry, 10**6)


def test_events_hold_no_names_labels_or_files(small: Small) -> None:
    small.grant("s1")
    small.add("very-private-name", "s1", labels={"very-private-label": 1.0}, photo="very-private-photo")
    assert "very-private" not in json.dumps([event.to_json() for event in log.events_list(small.registry)])
    with small.registry.catalog.read() as session:
        from w2w_registry.catalog.events import stored_events

        assert "very-private" not in json.dumps([e.body for e in stored_events(session)])


# -- tampering ---------------------------------------------------------------------------------------
def raw(url: str) -> Iterator[Connection]:
    """A connection that may do anything: triggers dropped, keys unchecked."""
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            names = connection.execute(text("SELECT name FROM sqlite_master WHERE type='trigger'")).scalars().all()
            for name in names:
                connection.execute(text(f"DROP TRIGGER {name}"))
            connection.execute(text("PRAGMA foreign_keys=OFF"))
        else:
            for table in ("event", "checkpoint"):
                connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
            connection.execute(text("SET session_replication_role = replica"))
        yield connection
        connection.commit()
    engine.dispose()


def other_value(connection: Connection, table: str, column: Any, key: str, value: Any) -> Any:
    """A different value this column accepts."""
    from sqlalchemy import Boolean, Enum, Integer, LargeBinary
    from sqlalchemy.types import Double

    from w2w_registry.catalog.types import Json, Number, UtcDateTime

    kind = column.type
    if isinstance(kind, Boolean):
        return not value
    if isinstance(kind, Enum):
        return next(v for v in kind.enums if v != value)
    if isinstance(kind, LargeBinary):
        return b"\0" + bytes(value or b"")
    if isinstance(kind, UtcDateTime):
        return "2001-01-01T00:00:00.000000Z" if connection.dialect.name == "sqlite" else "2001-01-01"
    if isinstance(kind, (Number, Double)):
        return (value or 0.0) + 0.125
    if isinstance(kind, Json):
        return '{"tampered":1}'
    if isinstance(kind, Integer) or "INT" in str(kind).upper():
        return (value or 0) + 100_000
    text_value = "x" if value is None else str(value)
    return ("0" if text_value[:1] != "0" else "1") + text_value[1:]


def tamper_columns() -> list[tuple[str, str]]:
    cases = [(table_name(model), column.name) for model in audited_models() for column in table_of(model).columns]
    from w2w_registry.catalog.event_log import ChainHead, Checkpoint, Event

    return cases + [(m.__tablename__, c.name) for m in (Event, Checkpoint, ChainHead) for c in table_of(m).columns]


def column_of(table: str, name: str) -> Any:
    from w2w_registry.catalog.base import Base

    return Base.metadata.tables[table].columns[name]


def change_one_cell(url: str, table: str, column: str, rng: random.Random) -> bool:
    """Change one cell of a random row; False when the table is empty or the database itself refuses the value."""
    import sqlalchemy.exc

    for connection in raw(url):
        quoted = f'"{table}"'
        where = "ctid" if connection.dialect.name == "postgresql" else "rowid"
        rows = connection.execute(text(f'SELECT {where}, "{column}" FROM {quoted}')).all()
        if not rows:
            return False
        place, value = rng.choice([row for row in rows if row[1] is not None] or rows)
        new = other_value(connection, table, column_of(table, column), column, value)
        condition = f"{where} = CAST(:place AS tid)" if where == "ctid" else f"{where} = :place"
        cast = ":new"
        try:
            connection.execute(
                text(f'UPDATE {quoted} SET "{column}" = {cast} WHERE {condition}'), {"new": new, "place": place}
            )
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.DataError, sqlalchemy.exc.ProgrammingError):
            connection.rollback()
            return False
    return True


SAMPLE = [
    ("version", "state"),
    ("version", "changed_seq"),
    ("coordinates", "data"),
    ("consent_record", "publication"),
    ("consent_record", "salt"),
    ("operation_input", "digest"),
    ("release", "visibility"),
    ("event", "actor"),
    ("event", "changes"),
    ("checkpoint", "root"),
    ("chain_head", "hash"),
]


@pytest.mark.parametrize(("table", "column"), SAMPLE)
def test_a_changed_cell_is_found(small: Small, table: str, column: str) -> None:
    busy(small)
    assert change_one_cell(small.url, table, column, random.Random(1))
    verdict = log.verify(small.registry)
    assert not verdict.ok
    if table not in ("checkpoint", "chain_head"):
        assert verdict.first_bad is not None
    if table in ("event", "checkpoint"):
        with pytest.raises(IntegrityError):
            log.checkpoint(small.registry)


@pytest.mark.parametrize("how", ["delete", "insert", "swap", "cut", "cut and head"])
def test_rows_and_events_deleted_inserted_swapped_or_cut_are_found(small: Small, how: str) -> None:
    busy(small)
    log.checkpoint(small.registry)
    tamper_rows(small.url, how)
    assert not log.verify(small.registry).ok


def tamper_rows(url: str, how: str) -> None:
    for connection in raw(url):
        if how == "delete":
            connection.execute(text("DELETE FROM label WHERE id = (SELECT min(id) FROM label)"))
        elif how == "insert":
            connection.execute(text("INSERT INTO version_subject SELECT max(v.id), 's2' FROM version v"))
        elif how == "swap":
            connection.execute(text("UPDATE event SET seq = -1 WHERE seq = 3"))
            connection.execute(text("UPDATE event SET seq = 3 WHERE seq = 4"))
            connection.execute(text("UPDATE event SET seq = 4 WHERE seq = -1"))
        else:
            connection.execute(text("DELETE FROM event WHERE seq > (SELECT max(seq) - 2 FROM event)"))
            if how == "cut and head":
                last = connection.execute(text("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1")).one()
                connection.execute(text("UPDATE chain_head SET seq = :s, hash = :h"), {"s": last[0], "h": last[1]})


def test_a_checkpoint_that_the_log_speaks_of_must_be_there(small: Small) -> None:
    log.checkpoint(small.registry)
    assert not log.checkpoint(small.registry)["created"]
    assert log.verify(small.registry).ok
    for connection in raw(small.registry.settings.database_url):
        connection.execute(text("DELETE FROM checkpoint"))
    assert [str(f.code) for f in log.verify(small.registry).findings] == ["checkpoint-missing"]
