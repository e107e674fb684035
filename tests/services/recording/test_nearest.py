"""The index beside the catalog: which state it is of, and what becomes of it when the two differ."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.index.conftest import need
from tests.services.world import BASE
from w2w_registry.catalog import vectors
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.vectors import coordinates_of, ids, last_seq
from w2w_registry.index import store
from w2w_registry.index.disk import lock
from w2w_registry.index.protocol import Batch, Ids
from w2w_registry.index.rows import Source
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.recording.nearest import forget_open, open_nearest, optimize
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space


@pytest.fixture(params=["exact", "faiss"])
def filled(registry: Registry, loras: Path, request: pytest.FixtureRequest) -> Registry:
    """With rows kept whole, and with rows kept short."""
    need(request.param)
    registry.settings.index["kind"] = request.param
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras)]))
    return registry


def kept(registry: Registry) -> tuple[int, int]:
    """Change number and rows of the one index on disk."""
    (folder,) = registry.settings.index_dir.iterdir()
    found = store.load(folder, source_of(registry))
    assert found is not None
    return found[1].seq, found[1].size


def source_of(registry: Registry) -> Source:
    """The exact vectors of the one space, as the catalog has them whenever they are asked for."""

    def source(ids: Ids) -> Batch:
        with registry.catalog.read() as session:
            found = vectors.of_versions(session, 1, ids)
            return found.ids, metric_of(session.get_one(Space, 1)).unit(found.matrix)

    return source


def found_by(registry: Registry, limit: int = 200) -> list[int]:
    with registry.catalog.read() as session:
        space = session.get_one(Space, 1)
        (point,) = coordinates_of(session, 1, [5]).values()
        return sorted(open_nearest(registry, session, space).search(point[None], limit)[0][0].tolist())


def test_a_reader_of_an_older_snapshot_neither_discards_nor_sees_what_is_newer(filled: Registry, loras: Path) -> None:
    before = found_by(filled)
    with filled.catalog.read() as session:
        space = session.get_one(Space, 1)
        seq = last_seq(session)  # the snapshot begins here
        remove(filled, "p0004", perform=True)
        add(filled, AddRequest([str(loras / "p0004")]))
        after = found_by(filled)
        (folder,) = filled.settings.index_dir.iterdir()
        store.optimize(folder, source_of(filled))
        with filled.catalog.read() as latest:
            nearest = open_nearest(filled, latest, latest.get_one(Space, 1))
            nearest._cache._engine.keep(nearest._cache.index, nearest._cache._stamp)
        newer = kept(filled)
        assert newer[0] > seq
        point = coordinates_of(session, 1, [5])[5]
        nearest = open_nearest(filled, session, space)
        assert nearest._cache.ahead
        here = nearest.search(point[None], 200)[0][0]
        assert set(here.tolist()) <= set(ids(session, 1).tolist())
        assert len(nearest.above(point[None], -2.0)[0][0]) == len(here)
        assert kept(filled) == newer
    assert set(after) != set(before)
    assert found_by(filled) == after


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_index_of_events_that_a_restored_backup_lacks_is_made_again(filled: Registry, ahead: int) -> None:
    """The number alone would not tell: after a restore, other events have the same numbers."""
    before = found_by(filled)
    (folder,) = filled.settings.index_dir.iterdir()
    source = source_of(filled)
    found = store.load(folder, source)
    assert found is not None
    index, stamp = found
    index.remove([5])
    store.discard(folder)
    assert store.save(folder, index, replace(stamp, seq=stamp.seq + ahead, head="f" * 64), source)
    forget_open()  # as another process does, which never had it open
    assert found_by(filled) == before
    assert kept(filled) == (stamp.seq, stamp.size)


def test_above_is_everyone_who_reaches_the_threshold(filled: Registry) -> None:
    with filled.catalog.read() as session:
        space = session.get_one(Space, 1)
        nearest = open_nearest(filled, session, space)
        (point,) = coordinates_of(session, 1, [5]).values()
        everyone, scores = (part[0] for part in nearest.search(point[None], 200, exact=True))
        for threshold in (-2.0, float(scores[3]), 0.999, 1.5):
            (found,) = nearest.above(point[None], threshold)
            np.testing.assert_array_equal(found[0], everyone[scores >= np.float32(threshold)])


def test_optimizing_leaves_one_piece_that_answers_alike(filled: Registry, loras: Path, retrained: Path) -> None:
    before = found_by(filled)
    remove(filled, "p0004", perform=True)
    add(filled, AddRequest([str(retrained)]))
    after = found_by(filled)
    with filled.catalog.read() as session:  # somebody is searching meanwhile
        nearest = open_nearest(filled, session, session.get_one(Space, 1))
        (done,) = optimize(filled)
        assert (done.space, done.rows) == ("tiny@1", kept(filled)[1])
        (point,) = coordinates_of(session, 1, [5]).values()
        assert sorted(nearest.search(point[None], 200)[0][0].tolist()) == after
    assert found_by(filled) == after != before
    (again,) = optimize(filled, "tiny")
    assert (again.pieces, again.rows) == (1, done.rows)
    with filled.catalog.read() as session:
        assert kept(filled) == (last_seq(session), len(after))


def test_nothing_is_opened_twice_while_nothing_changes(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found_by(filled)
    monkeypatch.setattr(store, "load", lambda *_: pytest.fail("opened again"))
    monkeypatch.setattr(vectors, "count", lambda session, space: pytest.fail("counted again"))
    assert found_by(filled) == before


def test_what_changed_is_seen_though_the_index_is_open(filled: Registry) -> None:
    before = found_by(filled)
    remove(filled, "p0004", perform=True)
    assert len(found_by(filled)) == len(before) - 1


def test_what_changed_is_added_to_what_is_open(filled: Registry, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither read from disk again nor put where somebody still searches an earlier state."""
    before = found_by(filled)
    with filled.catalog.read() as session:
        earlier = open_nearest(filled, session, session.get_one(Space, 1))
        (point,) = coordinates_of(session, 1, [5]).values()
        remove(filled, "p0004", perform=True)
        monkeypatch.setattr(store, "load", lambda *_: pytest.fail("opened again"))
        after = found_by(filled)
        assert len(after) == len(before) - 1
        assert sorted(earlier.search(point[None], 200)[0][0].tolist()) == before
    with filled.catalog.read() as session:
        later = open_nearest(filled, session, session.get_one(Space, 1))
        assert later._cache.index is not earlier._cache.index
        theirs, ours = (one._cache.index.segments[0].rows.vectors for one in (earlier, later))  # type: ignore[attr-defined]
        assert ours is theirs
    monkeypatch.undo()
    add(filled, AddRequest([str(loras / "p0004")]))
    forget_open()
    again = found_by(filled)
    forget_open()
    optimize(filled)
    assert found_by(filled) == again


def test_only_one_thread_makes_an_index(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    build = store.build

    def counted(*args: Any) -> Any:
        made.append(1)
        time.sleep(0.05)
        return build(*args)

    monkeypatch.setattr(store, "build", counted)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: found_by(filled), range(6)))
    assert len(made) == 1
    assert all(one == found[0] for one in found)


def test_what_another_process_is_writing_is_waited_for(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found_by(filled)
    (folder,) = filled.settings.index_dir.iterdir()
    current = (folder / "CURRENT").read_bytes()
    (folder / "CURRENT").unlink()  # as if it were the first to be written
    forget_open()
    monkeypatch.setattr(store, "discard", lambda folder: pytest.fail("thrown away"))
    with ThreadPoolExecutor(1) as pool:
        with lock(folder, wait=True):
            asked = pool.submit(found_by, filled)
            time.sleep(0.2)
            (folder / "CURRENT").write_bytes(current)
        assert asked.result(30) == before


def test_a_damaged_short_row_has_the_index_made_again(filled: Registry) -> None:
    """What rows stand for is compared with the catalog whenever they decide."""
    if filled.settings.index["kind"] == "exact":
        return
    before = found_by(filled)
    with filled.catalog.read() as session:
        nearest = open_nearest(filled, session, session.get_one(Space, 1))
        rows = nearest._cache.index.segments[0].rows  # type: ignore[attr-defined]
        assert rows.errors is not None
        rows.vectors = -rows.vectors
        (point,) = coordinates_of(session, 1, [5]).values()
        ids, scores = nearest.search(point[None], 200)
        assert sorted(ids[0].tolist()) == before
        assert scores[0, 0] == pytest.approx(1.0)


def test_what_is_open_keeps_no_snapshot(filled: Registry) -> None:
    """Another thread uses it beside a snapshot of its own, and this one is closed."""
    found_by(filled)
    with filled.catalog.read() as session:
        nearest = open_nearest(filled, session, session.get_one(Space, 1))
        (point,) = coordinates_of(session, 1, [5]).values()
        nearest.search(point[None], 5)
        index = nearest._cache.index
        assert [segment.rows.source for segment in index.segments] == [None]  # type: ignore[attr-defined]
        remove(filled, "p0004", perform=True)
    (done,) = optimize(filled)
    assert done.pieces == 1
    assert kept(filled)[1] == done.rows == index.size - 1
