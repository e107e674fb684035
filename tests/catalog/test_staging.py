"""Rows and events written many at a time: the same journal as one by one, and nothing unjournaled."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from sqlalchemy import Dialect, func, select
from sqlalchemy.dialects import postgresql, sqlite

from tests.catalog import build
from w2w_registry.audit.chain import GENESIS, event_hash
from w2w_registry.catalog.base import audited_models, table_name
from w2w_registry.catalog.models import Alias, Coordinates, Event, Identity, Operation, Version
from w2w_registry.catalog.rows import key_text, present_digests
from w2w_registry.catalog.session import Catalog, UnitOfWork
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.staging import NewRow
from w2w_registry.catalog.types import Json, UtcDateTime, Words, handed_over
from w2w_registry.catalog.vectors import pack
from w2w_registry.records import Kind


def stage_one(uow: UnitOfWork, space: Space, name: str) -> tuple[Version, int]:
    identity = build.new_identity(name)
    version, *rest = build.new_version(identity, space)
    uow.stage(identity, version.operation, version, *rest)
    return version, uow.stage_event("version.add", {"version": version, "identity": identity}, number=1)


def check_journal(catalog: Catalog) -> None:
    """The chain holds, and the last digest recorded of every audited row is that of the row in its table."""
    with catalog.read() as session:
        recorded: dict[tuple[str, str], str | None] = {}
        before = GENESIS
        for event in session.scalars(select(Event).order_by(Event.seq)):
            assert event.prev_hash == before
            assert event.hash == event_hash(before, event.body())
            before = event.hash
            recorded.update({(table, key): digest for table, key, _, digest in event.changes})
        for model in audited_models():
            for key, digest in present_digests(session, model):
                assert recorded.pop((table_name(model), key_text(key))) == digest
        assert not any(recorded.values())


def test_many_rows_in_few_statements_with_an_event_each(catalog: Catalog) -> None:
    with catalog.write("ann") as uow:
        space = build.add_space(uow)
        staged = [stage_one(uow, space, f"p{i}") for i in range(40)]
        assert [seq for _, seq in staged] == list(range(uow._seq + 1, uow._seq + 41))
        assert uow.session.scalar(select(func.count()).select_from(Version)) == 0
        uow.settle()
        assert [version.changed_seq for version, _ in staged] == [seq for _, seq in staged]
        ids = [version.id for version, _ in staged]
    check_journal(catalog)
    with catalog.read() as session:
        names = session.execute(select(Version.id, Identity.name).join(Version.identity).order_by(Version.id)).all()
        assert [tuple(row) for row in names] == [(i, f"p{n}") for n, i in enumerate(ids)]
        assert session.scalar(select(func.count()).select_from(Coordinates)) == 40
        event = session.scalars(select(Event).where(Event.seq == staged[7][1])).one()
        assert event.objects["version"] == ids[7]
        assert {change[0] for change in event.changes} >= {"identity", "operation", "version", "coordinates"}


def test_events_in_between_keep_their_order(catalog: Catalog) -> None:
    with catalog.write("ann") as uow:
        space = build.add_space(uow)
        stage_one(uow, space, "first")
        uow.event("note")  # what is staged comes before it
        _, seq = stage_one(uow, space, "second")
        later = build.add_version(uow, "third", space)
    check_journal(catalog)
    with catalog.read() as session:
        actions = list(session.scalars(select(Event.action).order_by(Event.seq)))
        assert actions[1:3] == ["version.add", "note"]
        assert session.scalar(select(Version.changed_seq).where(Version.id == later.id)) == seq + 1


def test_changed_rows_of_the_session_belong_to_the_staged_event(catalog: Catalog) -> None:
    with catalog.write("ann") as uow:
        space = build.add_space(uow)
        version = build.add_version(uow, "p", space)
        version.identity.removed = build.T0
        uow.event("identity.remove", {"identity": version.identity_id})
        version.identity.removed = None
        rows = build.new_version(version.identity, space, 2)
        uow.stage(rows[0].operation, *rows)
        uow.stage_event("version.add", {"version": rows[0]}, number=2)
    check_journal(catalog)


def test_a_savepoint_undoes_what_was_staged_in_it(catalog: Catalog) -> None:
    with catalog.write("ann") as uow:
        space = build.add_space(uow)
        stage_one(uow, space, "stays")
        with suppress(LookupError), uow.savepoint():
            stage_one(uow, space, "goes")
            uow.settle()
            stage_one(uow, space, "goes too")
            raise LookupError
        stage_one(uow, space, "stays too")
    check_journal(catalog)
    with catalog.read() as session:
        assert sorted(session.scalars(select(Identity.name))) == ["stays", "stays too"]


def test_staged_without_an_event_is_refused(catalog: Catalog) -> None:
    with pytest.raises(AssertionError, match="changed without an event: operation"), catalog.write("ann") as uow:
        uow.stage(build.new_operation())
    with catalog.read() as session:
        assert session.scalar(select(func.count()).select_from(Operation)) == 0


def test_coordinates_come_with_their_version(catalog: Catalog) -> None:
    """Else the version's change number would not move, and an index would never hear of them."""
    with catalog.write("ann") as uow:
        space = build.add_space(uow)
        version = build.add_version(uow, "p", space)
        other = build.add_space(uow, "others")
    data, digest = pack(np.zeros(4, np.float32))
    with catalog.write("ann") as uow, pytest.raises(AssertionError, match="coordinates are staged"):
        _place(uow, Coordinates(space_id=other.id, version=version, k=4, digest=digest, data=data))


def _place(uow: UnitOfWork, row: Coordinates) -> None:
    uow.stage(row)
    try:
        uow.stage_event("version.place")
    finally:
        uow._staged.clear()


def test_light_rows_are_journaled_alike(catalog: Catalog) -> None:
    """Rows given as columns, which refer to one another, get ids that no row ever had, however many there are."""
    with catalog.write("ann") as uow:
        version = build.add_version(uow, "first", build.add_space(uow))
    for first, count in ((0, 1), (1, 20), (21, 1), (22, 20)):
        with catalog.write("ann") as uow:
            for number in range(first, first + count):
                identity = NewRow(Identity, {"name": f"light{number}", "kind": Kind.PERSON, "created": build.T0})
                uow.stage(identity, NewRow(Alias, {"identity_id": identity, "name": "a", "version_id": version.id}))
                uow.stage_event("identity.add", {"identity": identity}, keys={10: "a", 2: "b"})
    with catalog.write("ann") as uow:  # the newest is gone: its id is not given again
        newest = uow.session.scalars(select(Identity).order_by(Identity.id.desc()).limit(1)).one()
        uow.bulk_delete(Alias, uow.keys(Alias, Alias.identity_id == newest.id))
        uow.bulk_delete(Identity, [newest.id])
        uow.event("identity.remove")
        for name in range(10):
            uow.stage(NewRow(Identity, {"name": f"later{name}", "kind": Kind.PERSON, "created": build.T0}))
            uow.stage_event("identity.add")
    check_journal(catalog)
    with catalog.read() as session:
        ids = list(session.scalars(select(Identity.id).order_by(Identity.id)))
        assert ids == [*range(version.identity_id, newest.id), *range(newest.id + 1, newest.id + 11)]
        aliases = session.execute(select(Alias.identity_id).where(Alias.name == "a").order_by(Alias.id)).scalars()
        assert list(aliases) == list(range(version.identity_id + 1, newest.id))
        event = session.scalars(select(Event).where(Event.action == "identity.add").limit(1)).one()
        assert event.payload == {"keys": {"2": "b", "10": "a"}}


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_values_are_handed_over_as_sqlalchemy_hands_them(dialect: Dialect) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    given = {Words: ["a", "é\0", "\ud800", 3, None], Json: [{"b": 1, "a": (1.5, None)}, "x", None]}
    given |= {UtcDateTime: [moment, moment.replace(tzinfo=None), moment.astimezone(timezone(timedelta(hours=2))), None]}
    for kind, values in given.items():
        ours = handed_over(kind(), dialect)
        theirs = kind().dialect_impl(dialect).bind_processor(dialect)
        assert ours is not None
        assert theirs is not None
        for value in values:
            assert ours(value) == theirs(value)
