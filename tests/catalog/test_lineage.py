"""Ancestors and descendants, against a plain walk over the same graph."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

import pytest

from tests.catalog.build import T0, add_space, add_version, digest
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import lineage
from w2w_registry.catalog.models import Subject, VersionSubject
from w2w_registry.catalog.session import Catalog

Graph = dict[int, list[int]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def grown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Catalog, Graph, dict[int, set[str]]]]:
    """A catalog with a random graph of mixes: version id -> parents, version id -> its own subjects."""
    from tests.conftest import fresh_postgres, fresh_sqlite

    if request.param == "sqlite":
        urls = fresh_sqlite(request.getfixturevalue("sqlite_template"), tmp_path_factory.mktemp("lineage"))
    else:
        urls = fresh_postgres(request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template"))
    rng = random.Random(5)
    for url in urls:
        catalog = Catalog(url, event_hash=event_hash)
        parents: Graph = {}
        subjects: dict[int, set[str]] = {}
        with catalog.write("tester") as uow:
            space = add_space(uow)
            uow.add_all(Subject(id=f"s{i}", kind="person", created=T0) for i in range(4))
            uow.event("subjects")
            made = []
            for i in range(60):
                chosen = [] if i < 8 else [rng.choice(made) for _ in range(rng.choice([1, 2, 2, 3]))]
                version = add_version(uow, f"p{i}", space, parents=chosen)
                subjects[version.id] = {f"s{i % 4}"} if i < 8 else set()
                uow.add_all(VersionSubject(version_id=version.id, subject_id=s) for s in subjects[version.id])
                uow.event("subjects")
                parents[version.id] = [parent.id for parent in chosen]
                made.append(version)
        yield catalog, parents, subjects
        catalog.close()


def walk(beside: Graph, start: int, limit: int | None = None) -> dict[int, int]:
    depth, queue = {start: 0}, deque([start])
    while queue:
        at = queue.popleft()
        for relative in beside.get(at, ()):
            if relative not in depth and depth[at] != limit:
                depth[relative] = depth[at] + 1
                queue.append(relative)
    return depth


def turned(parents: Graph) -> Graph:
    children: Graph = {}
    for child, above in parents.items():
        for parent in above:
            children.setdefault(parent, []).append(child)
    return children


@pytest.mark.parametrize("limit", [None, 0, 1, 3, 20])
@pytest.mark.parametrize("up", [True, False])
def test_walks_find_what_there_is(
    grown: tuple[Catalog, Graph, dict[int, set[str]]], up: bool, limit: int | None
) -> None:
    catalog, parents, _ = grown
    beside = parents if up else turned(parents)
    with catalog.read() as session:
        for start in parents:
            reach = (lineage.ancestors if up else lineage.descendants)(session, [start], depth=limit)
            assert reach.depth == walk(beside, start, limit)
            assert reach.cut == {v for v in reach.depth if any(r not in reach.depth for r in beside.get(v, ()))}
            inside = [(c, p) for c, above in parents.items() for p in above if {c, p} <= reach.depth.keys()]
            # a walk sees the edges of what it went through; edges between versions at its limit are not its own
            assert reach.edges <= set(inside)
            assert {(c, p) for c, p in inside if reach.depth[c if up else p] != limit} <= reach.edges


def test_ids_of_several_at_once(grown: tuple[Catalog, Graph, dict[int, set[str]]]) -> None:
    catalog, parents, _ = grown
    starts = list(parents)[:8]
    with catalog.read() as session:
        assert lineage.descendant_ids(session, starts) == set().union(*(walk(turned(parents), s) for s in starts))
        assert lineage.ancestor_ids(session, list(parents)[-3:]) == set().union(
            *(walk(parents, s) for s in list(parents)[-3:])
        )
        assert lineage.descendant_ids(session, []) == set()


def test_subjects_upstream(grown: tuple[Catalog, Graph, dict[int, set[str]]]) -> None:
    catalog, parents, subjects = grown
    with catalog.read() as session:
        found = lineage.upstream_subjects(session, parents)
    assert found == {v: set().union(*(subjects[above] for above in walk(parents, v))) for v in parents}


def test_what_was_made_with_a_file(grown: tuple[Catalog, Graph, dict[int, set[str]]]) -> None:
    catalog, parents, _ = grown
    with catalog.read() as session:
        first = next(iter(parents))
        assert lineage.made_with(session, digest(("file", "p0", 1))) == [first]
        assert lineage.made_with(session, digest("no such file")) == []
        operations = lineage.operations_of(session, list(parents)[-2:])
    assert [len(inputs) for _, inputs in operations.values()].count(0) == 0
    assert all(
        [item.position for item in inputs] == list(range(len(inputs))) and operation.kind == "mix"
        for operation, inputs in operations.values()
    )
