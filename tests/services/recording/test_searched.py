"""Points are looked for by another thread while those before them are recorded: what is recorded stays the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests.services.world import BASE
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.models import Coordinates, Hold, Identity, OperationInput, Space, Version
from w2w_registry.catalog.operations import RESEMBLES
from w2w_registry.catalog.resolve import space_for
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Use
from w2w_registry.errors import StorageError
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording import searched
from w2w_registry.services.recording.nearest import Nearest
from w2w_registry.services.recording.searched import Searching, searching
from w2w_registry.services.recording.sources import open_space_of, space_input
from w2w_registry.services.recording.versions import Activity
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis import edit, new_versions
from w2w_registry.services.synthesis.new_versions import Draft, Permission, record
from w2w_registry.space.basis import WeightSpace

COUNT, PART = 30, 8


@pytest.fixture
def filled(registry: Registry, loras: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Eighty people; what is recorded next is looked for and recorded in parts of eight."""
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras)]))
    monkeypatch.setattr(searched, "PART", PART)
    monkeypatch.setattr(new_versions, "_TOGETHER", PART)
    return registry


def another(registry: Registry, loras: Path, folder: Path) -> Registry:
    """The same people in a registry of its own."""
    url = f"sqlite:///{folder}/another.db"
    schema.upgrade(url)
    settings = replace(registry.settings, home=folder / "another", database_url=url)
    made = Registry(settings, Catalog(url, event_hash=event_hash), registry.artifacts)
    fit_space(made, "tiny", [str(loras)], base_model=BASE)
    add(made, AddRequest([str(loras)]))
    return made


def drafts(registry: Registry, name: str) -> tuple[Space, WeightSpace, list[Draft]]:
    """Thirty points, every third of which is somebody's who is registered; half are samples, half of a
    subject's photos."""
    with registry.catalog.read() as session:
        row = space_for(session, None)
        _, space = open_space_of(registry, session, row.id)
        people = edit.learned_from(session, row)[1]
    rng = np.random.default_rng(3)
    made = []
    for i in range(COUNT):
        point = people[i] if i % 3 == 0 else rng.normal(size=space.k) * space.component_std
        kind = OperationKind.SAMPLE if i % 2 else OperationKind.INVERT
        activity = Activity(kind, now(), {}, (space_input(row),), 3)
        subjects = () if i % 2 else (f"s-{name}",)
        made.append(Draft(f"{name}{i}", Kind.PERSON, point.astype(np.float32), activity, subjects))
    return row, space, made


@contextmanager
def looked_first(*args: Any) -> Iterator[Searching]:
    """As ``searching``, with every answer there before anything else begins."""
    with searching(*args) as asked:
        asked.of(0, len(args[2]))
        yield asked


def told(registry: Registry, name: str) -> list[Any]:
    """Of each version of those identities: its state, its point, what it was made of, and against whom it is held."""
    with registry.catalog.read() as session:
        names = dict(session.execute(select(Version.id, Identity.name).join(Identity)).tuples().all())
        rows = session.execute(
            select(Version, Coordinates.data)
            .join(Coordinates, Coordinates.version_id == Version.id)
            .where(Version.id.in_([i for i, one in names.items() if one.startswith(name)]))
            .order_by(Version.id)
        )
        found: list[Any] = []
        for version, data in rows.tuples():
            made_of = session.execute(
                select(OperationInput.role, OperationInput.ref)
                .where(OperationInput.operation_id == version.operation_id)
                .order_by(OperationInput.position)
            )
            holds = select(Hold.like_id, Hold.why, Hold.by, Hold.score).where(Hold.version_id == version.id)
            held = [(names.get(like), *rest) for like, *rest in session.execute(holds)]
            state = str(version.state)
            found.append((names[version.id].removeprefix(name), state, data, list(map(tuple, made_of)), held))
    return found


def test_what_is_recorded_is_the_same_whoever_is_looked_for_meanwhile(
    filled: Registry, loras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, space, made = drafts(filled, "new")
    record(filled, row, space, made, Permission(Use.SAMPLE, spaces=[row.id]))
    monkeypatch.setattr(new_versions, "searching", looked_first)
    other = another(filled, loras, tmp_path)
    row, space, made = drafts(other, "new")
    record(other, row, space, made, Permission(Use.SAMPLE, spaces=[row.id]))
    assert told(filled, "new") == told(other, "new")
    held = {i for i, one in enumerate(told(filled, "new")) if one[4]}
    assert held >= set(range(0, COUNT, 6))
    assert len(held) < COUNT // 2
    resembling = {i for i, one in enumerate(told(filled, "new")) if any(role == RESEMBLES for role, _ in one[3])}
    assert resembling >= set(range(3, COUNT, 6))
    assert len(resembling) < COUNT // 2


def test_parts_answer_what_one_search_for_all_does(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled.catalog.read() as session:
        space = space_for(session, None)
        data = session.scalars(select(Coordinates.data).order_by(Coordinates.version_id)).all()
    points = np.stack([np.frombuffer(one, "<f4") for one in data]) * np.float32(1.25)
    with searching(filled, space, points) as asked:
        parts = [asked.of(start, min(start + 11, len(points))) for start in range(0, len(points), 11)]
    monkeypatch.setattr(searched, "PART", len(points))
    with searching(filled, space, points) as asked:
        whole = asked.of(0, len(points))
    assert np.array_equal(np.concatenate([one.ids for one in parts]), whole.ids)
    assert np.array_equal(np.concatenate([one.scores for one in parts]), whole.scores)
    assert {(one.seq, one.size, one.space_id) for one in parts} == {(whole.seq, len(points), space.id)}


def test_who_comes_in_while_others_are_looked_for_is_compared_all_the_same(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Searching.begun

    def somebody_else_records(asked: Searching) -> None:
        begun(asked)
        monkeypatch.setattr(Searching, "begun", begun)
        row, space, made = drafts(filled, "theirs")
        record(filled, row, space, made, Permission(Use.SAMPLE, spaces=[row.id]))

    monkeypatch.setattr(Searching, "begun", somebody_else_records)
    row, space, made = drafts(filled, "ours")
    record(filled, row, space, made, Permission(Use.SAMPLE, spaces=[row.id]))
    ours = told(filled, "ours")
    strangers = [i for i in range(0, COUNT, 2) if i % 3]  # nobody's likenesses as the search began, made of photos
    assert not any(told(filled, "theirs")[i][4] for i in strangers)
    assert [ours[i][4][0][0] for i in strangers] == [f"theirs{i}" for i in strangers]


def test_what_the_search_cannot_do_is_told_and_nothing_is_recorded(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, calls = Nearest.search, iter(range(100))

    def breaks(nearest: Nearest, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            raise StorageError(path="vectors.f32", reason="the disk is gone")
        return search(nearest, *args, **kwargs)

    monkeypatch.setattr(Nearest, "search", breaks)
    running = threading.active_count()
    with pytest.raises(StorageError, match="disk is gone"):
        edit.sample(filled, COUNT, name="none", seed=9)
    assert told(filled, "none") == []
    assert threading.active_count() == running
