"""How many statements a command asks of the database does not grow with what is in it: no query per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.services.small import ANY, Small
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Use
from w2w_registry.records import now
from w2w_registry.services.audit.queries import QUESTIONS, Filters, ask
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.subjects import list_subjects
from w2w_registry.services.hub.listing import list_releases
from w2w_registry.services.identities.browsing import browse
from w2w_registry.services.identities.manage import set_tags
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.showing import list_spaces

ASKED: dict[str, Callable[[Registry], object]] = {
    "list": browse,
    "list --where": lambda r: browse(r, where="beard > 0.1 and tag.team = 'red'"),
    "releases": list_releases,
    "subject list": list_subjects,
    "space list": list_spaces,
}


@contextmanager
def counted(registry: Registry) -> Iterator[list[str]]:
    """The statements that reach the database meanwhile."""
    statements: list[str] = []
    with registry.catalog.read() as session:
        engine = session.get_bind().engine

    def note(*given: object) -> None:
        if not str(given[2]).startswith(("PRAGMA", "BEGIN")):
            statements.append(str(given[2]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def fill(small: Small, start: int, count: int) -> None:
    for i in range(start, start + count):
        small.grant(f"s{i}", replace(ANY, expires_at=now() + timedelta(days=9)))
        version = small.add(f"p{i}", f"s{i}", labels={"beard": 0.5})
        small.derive(f"p{i}", version)
        set_tags(small.registry, f"p{i}", ["team=red"])
        small.release(version, f"acme/p{i}")


@pytest.fixture
def small(sqlite_catalog: Catalog, tmp_path: Path) -> Small:
    made = Small(sqlite_catalog, tmp_path)
    fill(made, 0, 4)
    return made


def test_reading_costs_the_same_however_much_there_is(small: Small) -> None:
    def costs() -> dict[str, int]:
        found = {}
        for name, question in ASKED.items():
            with counted(small.registry) as statements:
                question(small.registry)
            found[name] = len(statements)
        for name in sorted(QUESTIONS.keys() - PER_ROW):
            with counted(small.registry) as statements:
                ask(small.registry, name, Filters(subject="s1", days=36500, where="beard > 0.1").only(name))
            found[f"audit query {name}"] = len(statements)
        return found

    few = costs()
    fill(small, 4, 12)
    assert costs() == few


PER_ROW = {"photo"}  # it needs one


def test_many_are_asked_about_at_once(small: Small) -> None:
    """What ``sync`` asks of every release, and one by one they get the same answer."""
    fill(small, 4, 4)
    small.add("stranger")
    ids = range(1, 18)
    with small.registry.catalog.read() as session:
        with counted(small.registry) as statements:
            found = gate.ask_each(small.registry, Use.PUBLISH, dict.fromkeys(ids), session=session)
        assert len(statements) <= 13  # eight for the policy, four for the door, one for what is held
        one_by_one = {i: gate.ask(small.registry, Use.PUBLISH, versions=[i], session=session) for i in ids}
    assert {i: (d.allowed, d.reasons) for i, d in found.items()} == {
        i: (d.allowed, d.reasons) for i, d in one_by_one.items()
    }
