"""The whole tamper campaign: every column of every audited table and of the log's own tables, rows and events deleted,
inserted, swapped, the tail cut. `make soak` runs it on both databases; test_log.py runs a sample every time."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, UniqueConstraint, create_engine, func, select, text

from tests.catalog.test_tampering import likeness
from tests.services.audit.test_log import busy, change_one_cell, other_value, raw, tamper_columns
from tests.services.small import Small
from w2w_registry.catalog.base import Base, audited_models, table_name
from w2w_registry.catalog.engine import parse_url
from w2w_registry.catalog.fingerprints import SpaceFingerprint
from w2w_registry.catalog.models import Direction, Picture, PictureVersion, Version
from w2w_registry.catalog.policies import make_policy
from w2w_registry.catalog.session import Catalog
from w2w_registry.records import now
from w2w_registry.services.audit import log
from w2w_registry.services.identities import manage
from w2w_registry.services.recording.versions import Activity, File, record_operation, source_file

pytestmark = pytest.mark.soak


@pytest.fixture
def full(catalog: Catalog, catalog_url: str, tmp_path: Path) -> Small:
    """A registry with at least one row in every audited table, signed."""
    small = Small(catalog, tmp_path)
    small.url = catalog_url
    busy(small)
    manage.set_alias(small.registry, "production", "b")
    manage.set_tags(small.registry, "b", ["team=ads"])
    with catalog.write("curator") as uow:
        operation = record_operation(uow, Activity("direction", now()))
        vector = b"\0" * 32
        uow.add(
            Direction(
                space_id=small.space_id,
                name="beard",
                attribute="beard",
                vector=vector,
                method="least-squares",
                operation_id=operation.id,
                digest="d" * 64,
                created=uow.now(),
            )
        )
        version = uow.session.get_one(Version, 1)
        uow.add(source_file(version, "e" * 64, File("f" * 64, "peft", "fp32", "a.safetensors", 12), uow.now()))
        picture = uow.add(Picture(mark=7, digest="a" * 64, operation="generate", seed=1, event_seq=1, made=uow.now()))
        centre = SpaceFingerprint(space_id=small.space_id, part=0, base="b" * 64, question="q", data=b"\0" * 8)
        uow.add_all([centre, *likeness(version, version.id), make_policy({"purpose": "art"}, uow.now())])
        uow.session.flush()
        uow.add(PictureVersion(picture_id=picture.id, version_id=version.id))
        uow.event("filled")
    log.checkpoint(small.registry)
    with catalog.read() as session:
        empty = [table_name(m) for m in audited_models() if not session.scalar(select(func.count()).select_from(m))]
    assert not empty
    assert log.verify(small.registry).ok
    return small


def snapshot(small: Small, folder: Path) -> object:
    """What the database holds now, to put back after each case."""
    if small.url.startswith("sqlite"):
        small.registry.catalog.close()
        for connection in raw_plain(small.url):
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        source = Path(small.url.removeprefix("sqlite:///"))
        shutil.copy(source, folder / "snapshot.db")
        return folder / "snapshot.db"
    rows: dict[str, list[dict[str, object]]] = {}
    for connection in raw_plain(small.url):
        for table in tables():
            rows[table] = [dict(r) for r in connection.execute(text(f'SELECT * FROM "{table}"')).mappings()]
    return rows


def put_back(small: Small, kept: object) -> None:
    small.registry.catalog.close()
    if isinstance(kept, Path):
        target = Path(small.url.removeprefix("sqlite:///"))
        for path in target.parent.glob(target.name + "-*"):
            path.unlink()
        shutil.copy(kept, target)
        return
    assert isinstance(kept, dict)
    for connection in raw(small.url):
        for table in tables():
            connection.execute(text(f'DELETE FROM "{table}"'))
            for row in kept[table]:
                names = ", ".join(f'"{name}"' for name in row)
                places = ", ".join(f":{name}" for name in row)
                connection.execute(text(f'INSERT INTO "{table}" ({names}) VALUES ({places})'), row)


def raw_plain(url: str) -> Iterator[Connection]:
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        yield connection
        connection.commit()
    engine.dispose()


def tables() -> list[str]:
    return [*(table_name(m) for m in audited_models()), "event", "checkpoint", "chain_head"]


def test_every_column_of_every_table(full: Small, tmp_path: Path) -> None:
    kept = snapshot(full, tmp_path)
    rng = random.Random(4)
    done, refused, missed = 0, [], []
    for table, column in tamper_columns():
        for _ in range(2):
            if not change_one_cell(full.url, table, column, rng):
                refused.append(f"{table}.{column}")
                break
            verdict = log.verify(full.registry)
            done += 1
            named = verdict.first_bad is not None or table in ("checkpoint", "chain_head")
            if verdict.ok or not (named or any(f.seq is None for f in verdict.findings)):
                missed.append(f"{table}.{column}")
            put_back(full, kept)
    assert log.verify(full.registry).ok
    print(f"{done} cells changed, {len(missed)} missed; refused by the database: {refused}")
    assert missed == []


def insert_copy(connection: Connection, table: str) -> None:
    """A copy of a row under another key."""
    columns, constraints = Base.metadata.tables[table].columns, Base.metadata.tables[table].constraints
    row = dict(connection.execute(text(f'SELECT * FROM "{table}" LIMIT 1')).mappings().one())
    unique = {c.name for u in constraints if isinstance(u, UniqueConstraint) for c in u.columns}
    for column in columns:
        if column.primary_key or column.name in unique:
            row[column.name] = other_value(connection, table, column, column.name, row[column.name])
    names = ", ".join(f'"{name}"' for name in row)
    connection.execute(text(f'INSERT INTO "{table}" ({names}) VALUES ({", ".join(f":{n}" for n in row)})'), row)


def swap_two(connection: Connection, table: str) -> bool:
    """Exchange the keys of two rows; False when there are not two rows, or no key that can be set aside meanwhile."""
    key = list(Base.metadata.tables[table].primary_key.columns)
    places = connection.execute(text(f'SELECT {", ".join(c.name for c in key)} FROM "{table}" LIMIT 2')).all()
    if len(places) < 2 or len(key) > 1:
        return False
    name = key[0].name
    first, second = places[0][0], places[1][0]
    aside = other_value(connection, table, key[0], name, first)
    for old, new in ((first, aside), (second, first), (aside, second)):
        connection.execute(text(f'UPDATE "{table}" SET {name} = :new WHERE {name} = :old'), {"new": new, "old": old})
    return True


def test_rows_inserted_and_swapped(full: Small, tmp_path: Path) -> None:
    kept = snapshot(full, tmp_path)
    done, missed = 0, []
    for model in audited_models():
        table = table_name(model)
        for how in (insert_copy, swap_two):
            did = False
            for connection in raw(full.url):
                did = how(connection, table) is not False
            if did:
                done += 1
                if log.verify(full.registry).ok:
                    missed.append(f"{how.__name__} {table}")
                put_back(full, kept)
    print(f"{done} rows inserted or swapped, missed: {missed}")
    assert missed == []


def test_rows_deleted(full: Small, tmp_path: Path) -> None:
    kept = snapshot(full, tmp_path)
    done, missed = 0, []
    for table in tables():
        for connection in raw(full.url):
            place = "ctid" if connection.dialect.name == "postgresql" else "rowid"
            connection.execute(text(f'DELETE FROM "{table}" WHERE {place} = (SELECT {place} FROM "{table}" LIMIT 1)'))
        done += 1
        if log.verify(full.registry).ok:
            missed.append(table)
        put_back(full, kept)
    print(f"{done} rows deleted, {len(missed)} missed: {missed}")
    assert missed == []


def test_events_deleted_inserted_swapped_and_cut(full: Small, tmp_path: Path) -> None:
    kept = snapshot(full, tmp_path)
    last = log.verify(full.registry).events
    signed = log.verify(full.registry).checkpoints
    assert signed == 2
    rng = random.Random(5)
    cases = []
    for seq in range(1, last + 1):
        cases.append((f"delete {seq}", [f"DELETE FROM event WHERE seq = {seq}"], seq))
    for _ in range(20):
        a, b = sorted(rng.sample(range(1, last + 1), 2))
        swap = [
            f"UPDATE event SET seq = -1 WHERE seq = {a}",
            f"UPDATE event SET seq = {a} WHERE seq = {b}",
            f"UPDATE event SET seq = {b} WHERE seq = -1",
        ]
        cases.append((f"swap {a} {b}", swap, a))
    for seq in range(1, last, 4):
        copy = (
            "INSERT INTO event (seq, at, actor, action, objects, changes, payload, prev_hash, hash) "
            f"SELECT {last + 1}, at, actor, action, objects, changes, payload, prev_hash, "
            f"'{'0' * 63}1' FROM event WHERE seq = {seq}"
        )
        cases.append((f"insert copy of {seq}", [copy], last + 1))
    for keep in range(last):
        head = "UPDATE chain_head SET seq = {s}, hash = coalesce((SELECT hash FROM event WHERE seq = {s}), '')"
        cut = [f"DELETE FROM event WHERE seq > {keep}", head.format(s=keep)]
        cases.append((f"cut after {keep}", cut, keep + 1))
    wrong = []
    for name, statements, first in cases:
        for connection in raw(full.url):
            for statement in statements:
                connection.execute(text(statement))
        verdict = log.verify(full.registry)
        if (
            verdict.ok
            or verdict.first_bad is None
            or (name.startswith(("delete", "cut")) and verdict.first_bad > first)
        ):
            wrong.append((name, verdict.first_bad))
        put_back(full, kept)
    print(f"{len(cases)} cases, wrong: {wrong}")
    assert wrong == []
