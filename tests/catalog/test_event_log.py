"""Whatever a transaction does, in whatever order, the journal explains every row; reading the log back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from tests.catalog.build import T0, add_space, claims, digest, new_identity, new_version
from tests.catalog.test_session import problems, raw
from tests.conftest import fresh_postgres, fresh_sqlite
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import events
from w2w_registry.catalog.models import Coordinates, Identity, Label, Operation, Space, Version
from w2w_registry.catalog.session import Catalog, UnitOfWork
from w2w_registry.records import Kind, VersionState

ACTIONS = [
    "add", "add", "label", "edit label", "delete label", "state", "rename", "bulk state", "bulk label", "bulk delete",
    "erase", "restore", "query", "flush", "fail", "event", "event",
]  # fmt: skip


class Undone(Exception):
    """Raised to make a savepoint fail."""


def act(uow: UnitOfWork, action: str, pick: int, counter: list[int]) -> None:
    """One step of a random transaction; ``pick`` chooses which rows."""
    session = uow.session
    versions = session.scalars(select(Version).order_by(Version.id)).all()
    labels = session.scalars(select(Label).order_by(Label.id)).all()
    chosen = [v.id for i, v in enumerate(versions) if (pick >> i) & 1]
    counter[0] += 1
    if action == "add":
        space = session.scalars(select(Space)).one()
        uow.add_all(new_version(new_identity(f"p{counter[0]}"), space))
    elif action == "label" and versions:
        uow.add_all([Label(version_id=versions[pick % len(versions)].id, name=f"l{counter[0]}", text="x")])
    elif action == "edit label" and labels:
        labels[pick % len(labels)].text = f"t{counter[0] % 2}"
    elif action == "delete label" and labels:
        uow.delete(labels[pick % len(labels)])
    elif action == "state" and versions:
        versions[pick % len(versions)].state = VersionState.BLOCKED if pick % 3 else VersionState.ACTIVE
    elif action == "rename" and versions:
        identity = session.get_one(Identity, versions[pick % len(versions)].identity_id)
        identity.name, identity.kind = f"r{counter[0]}", Kind.STYLE
    elif action == "bulk state":
        uow.bulk_update(Version, chosen, {"state": VersionState.ERASED})
    elif action == "bulk label":
        uow.bulk_update(Label, [label.id for label in labels[: pick % 4]], {"text": "bulk"})
    elif action == "bulk delete":
        uow.bulk_delete(Label, [label.id for label in labels[: pick % 3]])
    elif action == "erase":
        uow.bulk_delete(Coordinates, uow.keys(Coordinates, Coordinates.version_id.in_(chosen)))
    elif action == "restore":
        space = session.scalars(select(Space)).one()
        there = {key[1] for key in uow.keys(Coordinates)}
        row = {"space_id": space.id, "k": 1, "digest": digest(pick), "data": b"\0\0\0\0"}
        uow.bulk_insert(Coordinates, [{**row, "version_id": v} for v in chosen if v not in there])
    elif action == "flush":
        session.flush()
    elif action == "event":
        uow.event("step", objects={"n": counter[0]})


steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2**12)), max_size=14)
plans = st.tuples(steps, steps, steps, st.booleans())


def carry_out(catalog: Catalog, plan: Any) -> None:
    """Two transactions: steps, steps in a savepoint that may fail, steps; then everything must be explained."""
    counter = [0]
    with catalog.write("tester") as uow:
        add_space(uow)
    for before, inside, after, fails in plan:
        with catalog.write("tester") as uow:
            for action, pick in before:
                act(uow, action, pick, counter)
            try:
                with uow.savepoint():
                    for action, pick in inside:
                        act(uow, action, pick, counter)
                    if fails:
                        raise Undone
            except Undone:
                pass
            for action, pick in after:
                act(uow, action, pick, counter)
            uow.event("end")
        assert problems(catalog) == []
        with catalog.read() as session:
            # a version's changed_seq is the last event that names it or its coordinates
            last: dict[int, int] = {}
            for claim in claims(session):
                if claim.table in ("version", "coordinates"):
                    last[int(claim.key.split("/")[-1])] = claim.seq
            assert dict(session.execute(select(Version.id, Version.changed_seq)).tuples().all()) == last


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.tuples(plans, plans))
def test_any_transactions_are_explained_on_sqlite(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, plan: Any
) -> None:
    for url in fresh_sqlite(sqlite_template, tmp_path_factory.mktemp("journal")):
        catalog = Catalog(url, event_hash=event_hash)
        carry_out(catalog, plan)
        catalog.close()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.tuples(plans, plans))
def test_any_transactions_are_explained_on_postgresql(postgres_server: str, postgres_template: str, plan: Any) -> None:
    for url in fresh_postgres(postgres_server, postgres_template):
        catalog = Catalog(url, event_hash=event_hash)
        carry_out(catalog, plan)
        catalog.close()


@pytest.fixture
def logged(catalog: Catalog) -> Catalog:
    """Events 1 to 6: a day apart, two actors."""
    for day, (actor, action, objects) in enumerate(_LOGGED):
        catalog._clock = lambda day=day: T0 + timedelta(days=day)
        with catalog.write(actor) as uow:
            uow.event(action, objects=objects)
    return catalog


_LOGGED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("one", "space.fit", {"space": 1}),
    ("one", "version.add", {"version": 7, "identity": 1}),
    ("two", "version.add", {"version": 8, "identity": 1}),
    ("two", "version.block", {"version": [7, 8], "subject": "s1"}),
    ("one", "versions", {"subject": "s11"}),
    ("one", "subject.note", {"subject": ["s1", "s2"]}),
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"after": 2, "until": 4}, [3, 4]),
        ({"since": T0 + timedelta(days=1), "before": T0 + timedelta(days=3)}, [2, 3]),
        ({"actor": "two"}, [3, 4]),
        ({"action": "version.add"}, [2, 3]),
        ({"action": "version."}, [2, 3, 4]),
        ({"newest_first": True, "limit": 2}, [6, 5]),
        ({"actor": "nobody"}, []),
    ],
)
def test_ranges(logged: Catalog, options: dict[str, Any], expected: list[int]) -> None:
    with logged.read() as session:
        assert [event.seq for event in events.events(session, **options)] == expected


@pytest.mark.parametrize(
    ("kind", "ids", "expected"),
    [
        ("version", {7}, [2, 4]),
        ("version", {7, 8}, [2, 3, 4]),
        ("subject", {"s1"}, [4, 6]),
        ("subject", {"1"}, []),
        ("identity", {1}, [2, 3]),
        ("identity", {7}, []),
    ],
)
def test_events_about_something(logged: Catalog, kind: str, ids: set[int | str], expected: list[int]) -> None:
    with logged.read() as session:
        assert [event.seq for event in events.events_touching(session, {kind: ids}, {})] == expected


def test_a_stored_body_is_what_was_hashed(logged: Catalog) -> None:
    with logged.read() as session:
        stored = list(events.stored_events(session, after=1, until=3))
        mapped = list(events.events(session, after=1, until=3))
    assert [event.body for event in stored] == [event.body() for event in mapped]
    assert [event_hash(event.prev_hash, event.body) for event in stored] == [event.hash for event in mapped]


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'x'", "action = 'x'", "objects = '{}'", "payload = '[1]'", "changes = '[1]'", "hash = 'x'",
        "changes = '[[1,2,3,4]]'", "prev_hash = 'x'", "objects = 'not json'", "payload = '[NaN]'", "objects = '{ }'",
    ],
)  # fmt: skip
def test_a_tampered_event_shows(logged: Catalog, catalog_url: str, change: str) -> None:
    lift = (
        "DROP TRIGGER event_no_update"
        if catalog_url.startswith("sqlite")
        else "DROP TRIGGER event_append_only ON event"
    )
    raw(catalog_url, lift)
    raw(catalog_url, f"UPDATE event SET {change} WHERE seq = 3")
    found = problems(logged)
    assert found[0] == ("event", 3)


def test_operations_can_be_reached_from_versions(sqlite_catalog: Catalog) -> None:
    with sqlite_catalog.write("tester") as uow:
        space = add_space(uow)
        uow.add_all(new_version(new_identity("a"), space))
        uow.event("add")
    with sqlite_catalog.read() as session:
        version = session.scalars(select(Version)).one()
        assert version.operation == session.get_one(Operation, version.operation_id)
        assert version.identity.name == "a"
