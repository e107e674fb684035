"""Transactions and their events: nothing is written without one, nothing is lost, nothing is half."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from tests.catalog.build import T0, add_space, add_version, claims, new_identity, new_operation
from w2w_registry.audit.chain import GENESIS, event_hash
from w2w_registry.catalog import events
from w2w_registry.catalog.clock import clock_off
from w2w_registry.catalog.engine import CACHE_KIB, WRITE, make_engine, parse_url
from w2w_registry.catalog.models import (
    Alias,
    Checkpoint,
    Coordinates,
    Event,
    Identity,
    Job,
    Label,
    Operation,
    Space,
    Version,
)
from w2w_registry.catalog.rows import key_text, row_digest
from w2w_registry.catalog.schema import upgrade
from w2w_registry.catalog.session import Catalog, UnitOfWork
from w2w_registry.errors import Busy, DatabaseError, NotInitialised, SchemaOutOfDate, SettingError, StorageError
from w2w_registry.records import Kind, VersionState, now


def problems(catalog: Catalog) -> list[Any]:
    """What verification would find: chain, head, and rows against the last claim about each."""
    found: list[Any] = []
    with catalog.read() as session:
        previous, expected = GENESIS, 1
        for event in events.stored_events(session):
            if (event.seq, event.prev_hash, event.hash) != (expected, previous, event_hash(previous, event.body)):
                found.append(("event", event.seq))
            previous, expected = event.hash, expected + 1
        if events.chain_head(session) != (expected - 1, previous):
            found.append("head")
        claimed = {(c.table, c.key): c.digest for c in claims(session)}
        present = {(r.table, r.key): r.digest for r in events.present_rows(session)}
    found += [place for place in claimed if claimed[place] != present.get(place)]
    found += [place for place in present if place not in claimed]
    return found


def last_event(catalog: Catalog) -> Event:
    with catalog.read() as session:
        return next(events.events(session, newest_first=True, limit=1))


@pytest.mark.parametrize("days", [30, -30])
def test_the_server_s_clock_decides_where_the_machine_s_is_apart(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """A PostgreSQL catalog goes by one clock, whatever a machine's says, and every such try is an event."""
    wrong = lambda: now() + timedelta(days=days)  # noqa: E731
    with catalog.write("curator") as uow:
        uow.event("before")
    monkeypatch.setattr("w2w_registry.catalog.clock.now", wrong)
    catalog._clock = wrong
    for _ in range(2):
        with catalog.write("mallory") as uow:
            uow.event("meanwhile")
    with catalog.read() as session:
        log = [(e.action, abs(e.at - now()) < timedelta(minutes=5)) for e in events.events(session)]
        is_off = clock_off(session)
    if not catalog.is_file:
        said = "clock.off" if days > 0 else "clock.back"
        assert [e for e in log if e[0] != "policy.set"] == [
            (a, True) for a in ("before", said, "meanwhile", "meanwhile")
        ]
        assert abs(is_off - timedelta(days=days)) < timedelta(minutes=5)
    else:
        assert [action for action, _ in log].count("clock.back") == (days < 0)
        assert is_off == timedelta()


def test_an_event_holds_the_digest_of_every_row_touched(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space = add_space(uow)
        version = add_version(uow, "acme/alice", space, labels={"beard": 0.5, "job": "cook"}, tags={"team": "ads"})
    event = last_event(catalog)
    assert (event.seq, event.actor, event.action) == (2, "tester", "version.add")
    assert event.objects == {"version": version.id, "identity": version.identity_id}
    assert sorted(change[0] for change in event.changes) == sorted(
        ["identity", "operation", "operation_input", "version", "coordinates", "label", "label", "tag"]
    )
    assert {change[2] for change in event.changes} == {"insert"}
    assert problems(catalog) == []


def test_changes_between_two_events_belong_to_the_second(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space = add_space(uow)
        version = add_version(uow, "a", space)
        identity = version.identity
        identity.kind = Kind.PRODUCT
        seq = uow.event("identity.kind", objects={"identity": identity.id}, kind="product")
        uow.event("nothing")
    assert seq == 3
    with catalog.read() as session:
        third, fourth = events.events(session, after=2)
    said = [change[:3] for change in third.changes]
    assert said == [["former", "1", "insert"], ["identity", str(identity.id), "update"]]  # what its kind was is kept
    assert third.payload == {"kind": "product"}
    assert fourth.changes == []
    assert problems(catalog) == []


def test_a_change_without_an_event_is_a_bug_and_is_not_committed(catalog: Catalog) -> None:
    with pytest.raises(AssertionError, match="identity"), catalog.write("tester") as uow:
        uow.add(new_identity("a"))
    with catalog.read() as session:
        assert session.scalars(select(Identity)).all() == []
        assert events.chain_head(session) == (0, GENESIS)


def test_an_error_rolls_everything_back(catalog: Catalog) -> None:
    def fails() -> None:
        with catalog.write("tester") as uow:
            add_space(uow)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    with catalog.read() as session:
        assert (events.chain_head(session) or (0,))[0] == 0
    with catalog.write("tester") as uow:
        assert uow.next_seq == 1
        add_space(uow)
    assert problems(catalog) == []


def test_a_savepoint_undoes_its_rows_and_events_only(catalog: Catalog) -> None:
    def fails(uow: UnitOfWork, space: Space) -> None:
        with uow.savepoint():
            add_version(uow, "bad", space)
            uow.add(new_identity("unjournaled"))
            raise RuntimeError

    with catalog.write("tester") as uow:
        space = add_space(uow)
        with pytest.raises(RuntimeError):
            fails(uow, space)
        with uow.savepoint():
            add_version(uow, "good", space)
    with catalog.read() as session:
        assert session.scalars(select(Identity.name)).all() == ["good"]
        assert [event.seq for event in events.events(session)] == [1, 2]
    assert problems(catalog) == []


def test_a_savepoint_undoes_bulk_changes_of_loaded_rows(catalog: Catalog) -> None:
    def fails(uow: UnitOfWork) -> None:
        with uow.savepoint():
            uow.bulk_update(Label, uow.keys(Label), {"text": "changed"})
            uow.bulk_delete(Coordinates, uow.keys(Coordinates))
            raise RuntimeError

    with catalog.write("tester") as uow:
        version = add_version(uow, "a", add_space(uow))
        label = uow.add(Label(version_id=version.id, name="job", text="cook"))
        with pytest.raises(RuntimeError):
            fails(uow)
        assert label.text == "cook"
        uow.event("label.set")
    assert problems(catalog) == []


def test_jobs_and_checkpoints_need_no_event(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        uow.add(Job(id="j", kind="sync", state={"at": 3}, updated=T0))
        uow.add(Checkpoint(size=0, root="0" * 64, note="…", public_key_id="k", at=T0))
    with catalog.read() as session:
        assert session.get_one(Job, "j").state == {"at": 3}


def test_deleting_and_readding_within_one_event(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space = add_space(uow)
        version = add_version(uow, "a", space)
        coordinates = uow.session.get_one(Coordinates, (space.id, version.id))
        kept = {"space_id": space.id, "version_id": version.id, "k": 1, "digest": "0" * 64, "data": b"\1\2\3\4"}
        uow.delete(coordinates)
        uow.session.flush()
        uow.add(Coordinates(**kept))
        short_lived = uow.add(new_identity("gone at once"))
        uow.delete(short_lived)
        uow.event("coordinates.replace", objects={"version": version.id})
    changes = [change[:3] for change in last_event(catalog).changes]
    assert sorted(changes) == [
        ["coordinates", f"{space.id}/{version.id}", "update"],
        ["version", str(version.id), "update"],
    ]
    assert problems(catalog) == []


def test_bulk_changes_are_journaled_row_by_row(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space = add_space(uow)
        versions = [add_version(uow, f"p{i}", space, labels={"beard": 1.0}) for i in range(60)]
        ids = [version.id for version in versions]
    with catalog.write("tester") as uow:
        loaded = uow.session.get_one(Version, ids[0])
        assert uow.bulk_update(Version, [*ids, 10**9], {"state": VersionState.BLOCKED}) == 60
        assert (loaded.state, loaded.changed_seq) == (VersionState.BLOCKED, uow.next_seq)
        seq = uow.event("subject.block")
    event = last_event(catalog)
    assert sorted(int(key) for table, key, _, _ in event.changes if table == "version") == ids
    assert sum(table == "former" for table, *_ in event.changes) == 60  # what each state was
    with catalog.read() as session:
        assert set(session.scalars(select(Version.changed_seq))) == {seq}
    with catalog.write("tester") as uow:
        labels = uow.keys(Label)
        salts = set(uow.session.scalars(select(Label.salt)))
        uow.bulk_update(Label, labels, {"number": 0.0})
        uow.bulk_delete(Coordinates, [(space.id, i) for i in ids[:3]])
        uow.event("relabel")
    with catalog.read() as session:
        assert salts.isdisjoint(session.scalars(select(Label.salt)))
        assert len(session.scalars(select(Coordinates.version_id)).all()) == 57
    assert problems(catalog) == []


def test_bulk_insert_returns_keys_in_order(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        rows = [{"name": f"p{i}", "kind": Kind.PERSON, "created": T0} for i in range(1500)]
        keys = uow.bulk_insert(Identity, rows)
        uow.event("import")
    with catalog.read() as session:
        names = dict(session.execute(select(Identity.id, Identity.name)).tuples().all())
    assert [names[key[0]] for key in keys] == [row["name"] for row in rows]
    assert problems(catalog) == []


def test_writes_round_the_unit_of_work_are_refused(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        add_version(uow, "a", add_space(uow))
        with pytest.raises(AssertionError):
            uow.session.execute(update(Version).values(number=2))
        with pytest.raises(AssertionError):
            uow.session.execute(delete(Label))
    assert problems(catalog) == []


def test_reading_is_a_snapshot_and_cannot_write(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        add_space(uow)
    with catalog.read() as session:
        assert (events.chain_head(session) or (0,))[0] == 1
        with catalog.write("tester") as uow:
            add_space(uow, number=2)
        assert (events.chain_head(session) or (0,))[0] == 1
    with pytest.raises(DatabaseError), catalog.read() as session:
        session.execute(text("DELETE FROM space"))
    with catalog.read() as session:
        assert (events.chain_head(session) or (0,))[0] == 2


def test_a_version_knows_the_event_that_last_changed_it(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space, other = add_space(uow), add_space(uow, "other")
        a, b = add_version(uow, "a", space), add_version(uow, "b", space)
        assert (a.changed_seq, b.changed_seq) == (3, 4)
        a.state = VersionState.BLOCKED
        uow.event("block")
        uow.bulk_insert(
            Coordinates,
            [{"space_id": other.id, "version_id": b.id, "k": 1, "digest": "0" * 64, "data": b"\0\0\0\0"}],
        )
        uow.event("reproject")
        uow.add(Alias(identity_id=a.identity_id, name="production", version_id=a.id))
        uow.event("alias")
        assert (a.changed_seq, b.changed_seq) == (5, 6)
    assert problems(catalog) == []


def test_salts_change_with_the_row_and_hide_it(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        identity = uow.add(new_identity("acme/alice"))
        uow.event("identity.add")
        first = identity.salt
        identity.name = f"erased-{identity.id}"
        uow.event("identity.erase")
        assert identity.salt != first
    with catalog.read() as session:
        claim = next(c for c in claims(session) if c.seq == 1)
        row = session.get_one(Identity, identity.id)
        guess = {
            "id": row.id, "name": "acme/alice", "kind": row.kind, "created": row.created, "removed": None,
            "salt": row.salt,
        }  # fmt: skip
    assert row_digest(Identity, {**guess, "salt": first}) == claim.digest
    assert row_digest(Identity, guess) != claim.digest


def test_strange_text_and_numbers_keep_their_digest(catalog: Catalog) -> None:
    strange = {
        "s": "a\udcffb\0c",
        "n": [1e300, 1e-7, -0.0, 10**20, 2**53 + 1],
        "ü": {"b": None, "a": True},
        "i": {10: 1, 9: 2},
    }
    with catalog.write("tester\udcff") as uow:
        uow.add(new_operation(params=strange, agent="x\0y\udc80", seed=2**63 - 1))
        space = add_space(uow, base_model="\ud800model", alpha=-0.0, explained_variance=(0.1 + 0.2, 1 / 3))
        version = add_version(uow, "ünï", space, residual=5)
        uow.event("odd\0action", objects={"x": ["\udcff"]}, note=strange)
    assert problems(catalog) == []
    with catalog.read() as session:
        assert session.get_one(Version, version.id).residual == 5.0
        stored = session.scalar(select(Operation.params).where(Operation.agent.like("x%")))
        assert stored["n"] == strange["n"]  # type: ignore[index]
        assert last_event(catalog).at.tzinfo is not None


def test_a_number_that_is_none_is_refused(catalog: Catalog) -> None:
    with pytest.raises(Exception, match="finite"), catalog.write("tester") as uow:
        add_space(uow, alpha=float("nan"))


def test_keys_as_events_name_them() -> None:
    assert (key_text((12,)), key_text((3, 12)), key_text(("ab", 12))) == ("12", "3/12", "ab/12")


def test_opening_what_is_not_there(tmp_path: Any) -> None:
    missing = Catalog(f"sqlite:///{tmp_path}/no/catalog.db", event_hash=event_hash)
    with pytest.raises(NotInitialised), missing.read():
        pass
    assert list(tmp_path.iterdir()) == []
    for url in ("sqlite://", "sqlite:///:memory:", "mysql://x/y", "nonsense"):
        with pytest.raises(SettingError):
            Catalog(url, event_hash=event_hash)


def test_opening_an_unmigrated_database_says_so(empty_url: str, backend: str) -> None:
    if backend == "sqlite":
        open(empty_url.removeprefix("sqlite:///"), "w").close()
    catalog = Catalog(empty_url, event_hash=event_hash)
    with pytest.raises(SchemaOutOfDate) as caught, catalog.read():
        pass
    assert caught.value.current is None
    catalog.close()


def test_a_file_that_is_no_database(tmp_path: Any) -> None:
    (tmp_path / "catalog.db").write_bytes(b"certainly not a database, and long enough to be looked at" * 100)
    with pytest.raises(DatabaseError), Catalog(f"sqlite:///{tmp_path}/catalog.db", event_hash=event_hash).read():
        pass


def test_a_disk_without_room_is_read_and_said(tmp_path: Any) -> None:
    """No room for the log either, which SQLite makes even to read."""
    resource = pytest.importorskip("resource")
    url = f"sqlite:///{tmp_path}/catalog.db"
    upgrade(url)
    made = Catalog(url, event_hash=event_hash)
    with made.write("tester") as uow:
        add_space(uow)
    made.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        full = Catalog(url, event_hash=event_hash)
        with full.read() as session:
            found = len(session.scalars(select(Space)).all())
        with pytest.raises(StorageError) as refused, full.write("tester") as uow:
            add_space(uow, number=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with full.write("tester") as uow:  # there is room again
        add_space(uow, number=2)
    with full.read() as session:
        assert len(session.scalars(select(Space)).all()) == 2
    full.close()
    assert found == 1
    assert "full" in refused.value.fields["reason"]


def test_an_unreachable_server_is_named_without_its_password() -> None:
    catalog = Catalog("postgresql://user:se%25cret@127.0.0.1:1/x", event_hash=event_hash)
    with pytest.raises(DatabaseError) as caught, catalog.read():
        pass
    assert "cret" not in str(caught.value)


def test_a_second_writer_waits_then_is_told(catalog_url: str) -> None:
    first = Catalog(catalog_url, event_hash=event_hash)
    second = Catalog(catalog_url, event_hash=event_hash, busy_timeout=0.05)
    with first.write("one") as uow:
        add_space(uow)
        with pytest.raises(Busy), second.write("two"):
            pass
    with second.write("two") as uow:
        add_space(uow, number=2)
    assert problems(first) == []
    first.close()
    second.close()


@pytest.mark.parametrize("table", ["event", "checkpoint"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET {} = {}", "DELETE FROM {}"])
def test_triggers_keep_the_log_append_only(catalog: Catalog, catalog_url: str, table: str, statement: str) -> None:
    with catalog.write("tester") as uow:
        add_space(uow)
        uow.add(Checkpoint(size=1, root="0" * 64, note="…", public_key_id="k", at=T0))
    column = "actor" if table == "event" else "note"
    with pytest.raises(Exception, match="append-only"):
        raw(catalog_url, statement.format(table, column, "'x'"))
    assert problems(catalog) == []


@pytest.mark.parametrize("seq", [1, 3])
def test_triggers_refuse_events_out_of_sequence(catalog: Catalog, catalog_url: str, seq: int) -> None:
    with catalog.write("tester") as uow:
        add_space(uow)
    columns = "seq, at, actor, action, objects, changes, payload, prev_hash, hash"
    verb = "INSERT OR REPLACE" if catalog_url.startswith("sqlite") else "INSERT"
    with pytest.raises(Exception, match="out of sequence"):
        raw(
            catalog_url,
            f"{verb} INTO event ({columns}) SELECT {seq}, at, actor, action, objects, changes, payload, prev_hash, 'x'"
            " FROM event",
        )
    assert problems(catalog) == []


def test_postgresql_triggers_refuse_truncation(postgres_url: str) -> None:
    with pytest.raises(Exception, match="append-only"):
        raw(postgres_url, "TRUNCATE event")


def raw(url: str, statement: str) -> None:
    """Run a statement behind the catalog's back."""
    engine = make_engine(parse_url(url))
    try:
        with engine.connect() as connection:
            connection.execution_options(**{WRITE: True})
            with connection.begin():
                connection.execute(text(statement))
    finally:
        engine.dispose()


def test_reads_in_a_snapshot_are_of_one_state(catalog: Catalog) -> None:
    def named() -> str | None:
        with catalog.read() as session:
            return session.scalar(select(Identity.name).where(Identity.name == "acme/new"))

    def meanwhile() -> None:
        with catalog.write("other") as uow:
            add_version(uow, "acme/new", add_space(uow))

    with catalog.snapshot():
        assert named() is None
        other = threading.Thread(target=meanwhile)
        other.start()
        other.join()
        assert named() is None
    assert named() == "acme/new"


def test_a_note_in_a_snapshot_is_written_when_it_ends(catalog: Catalog) -> None:
    with catalog.write("other") as uow:
        add_space(uow)
    with catalog.snapshot():
        with catalog.read():
            catalog.note("tester", "consent.refuse", {})
        assert last_event(catalog).action != "consent.refuse"
    assert last_event(catalog).action == "consent.refuse"


def test_the_last_change_is_that_of_the_instant(catalog: Catalog) -> None:
    assert catalog.last_change() == 0
    for number in (1, 2, 3):
        with catalog.write("tester") as uow:
            uow.event("policy.note", {})
        assert catalog.last_change() == number
    catalog.close()
    assert catalog.last_change() == 3


def test_a_process_of_many_connections_bounds_what_each_keeps(catalog: Catalog, backend: str) -> None:
    if backend != "sqlite":
        pytest.skip("SQLite's cache is one a connection")
    catalog.bound_cache(2048)
    for _ in range(2):
        with catalog.write("p") as uow:
            assert uow.session.scalar(text("PRAGMA cache_size")) == -CACHE_KIB
            uow.event("test.event", {})
        with catalog.read() as session:
            assert session.scalar(text("PRAGMA cache_size")) == -2048
