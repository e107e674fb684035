"""What holds for every kind of index."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.index.conftest import engine_of, need
from tests.index.oracle import Oracle, assert_same, lattice, unit
from w2w_registry.errors import IntegrityError, MissingExtra, SettingError
from w2w_registry.index import factory, faiss_scan, store
from w2w_registry.index.factory import choose_kind, engine_for, kept_engines
from w2w_registry.index.kinds import FOLDER_KINDS, KINDS
from w2w_registry.index.milvus_server import MilvusTarget
from w2w_registry.index.protocol import Engine, Stamp, VectorIndex

DIM = 4
STAMP = Stamp("space", "metric", 1, "", 0, "hash of the first event")
Empty = Callable[[int], VectorIndex]

ids = st.integers(-3, 25)
some = st.lists(ids, max_size=12)
steps = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(ids, st.integers(0, 20)), max_size=12)),
    st.tuples(st.just("remove"), some),
    st.tuples(st.just("search"), st.integers(0, 20), st.integers(0, 30), st.none() | some, st.none() | some),
    st.tuples(st.just("reopen")),
)


def follow(sequence: list[Any], engine: Engine) -> None:
    """Play ``sequence`` on an index of the engine and on the oracle; they never differ."""
    index, oracle = engine.empty(DIM), Oracle()
    for seq, (step, *arguments) in enumerate(sequence):
        if step == "add":
            (rows,) = arguments
            keys = [key for key, _ in rows]
            vectors = lattice([pick for _, pick in rows], DIM) if rows else np.empty((0, DIM), np.float32)
            index.add(keys, vectors)
            oracle.add(keys, vectors)
        elif step == "remove":
            assert index.remove(arguments[0]) == oracle.remove(arguments[0])
        elif step == "search":
            pick, limit, allowed, forbidden = arguments
            queries = lattice([pick, pick + 1], DIM)
            assert_same(
                index.search(queries, limit, allowed=allowed, forbidden=forbidden),
                oracle.search(queries, limit, allowed, forbidden),
            )
            threshold = float(np.float32(arguments[0] / 20 - 0.25))
            every = oracle.search(queries, len(oracle.rows), allowed, forbidden)
            for found, ids, scores in zip(
                index.above(queries, threshold, allowed=allowed, forbidden=forbidden), *every, strict=True
            ):
                enough = scores >= np.float32(threshold)
                np.testing.assert_array_equal(found[0], ids[enough])
                np.testing.assert_array_equal(found[1], scores[enough])
            few = index.above(queries, threshold, limit=2, allowed=allowed, forbidden=forbidden)
            for found, ids, scores in zip(few, *every, strict=True):
                assert found[0].tolist() == ids[scores >= np.float32(threshold)][:2].tolist()
        else:
            assert engine.keep(index, Stamp("space", "metric", seq, "", 0))
            found = engine.open()
            assert found is not None
            index, stamp = found
            assert (stamp.seq, stamp.size, stamp.kind) == (seq, len(oracle.rows), index.kind)
        assert index.size == len(oracle.rows)
        assert index.ids().tolist() == sorted(oracle.rows)


@settings(max_examples=30, deadline=None)
@given(sequence=st.lists(steps, max_size=25))
@pytest.mark.parametrize("fast", FOLDER_KINDS)
def test_any_sequence_agrees_with_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, fast: str, sequence: list[Any]
) -> None:
    need(fast)
    follow(sequence, engine_of(fast, tmp_path_factory.mktemp("index"), None))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(steps, min_size=5, max_size=10))
def test_any_sequence_agrees_with_the_oracle_on_milvus(
    tmp_path_factory: pytest.TempPathFactory, milvus: MilvusTarget, sequence: list[Any]
) -> None:
    follow(sequence, engine_of("milvus", tmp_path_factory.mktemp("index") / "a-b-milvus", milvus))


def test_what_is_added_is_found_at_once_and_what_is_removed_never_again(empty: Empty) -> None:
    rng = np.random.default_rng(5)
    vectors = unit(rng, 30, 16)
    index = empty(16)
    index.add(np.arange(29), vectors[:29])
    index.add([100], vectors[29:])
    assert index.search(vectors[29:], 1)[0].tolist() == [[100]]
    assert index.remove([100, 100, 555]) == 1
    assert 100 not in index.search(vectors[29:], 30)[0]
    index.add([3], vectors[29:])
    found, scores = index.search(vectors[29:], 40)
    assert found[0, 0] == 3
    assert found.shape == (1, 29)
    assert sorted(found[0].tolist()) == list(range(29))
    assert (np.diff(scores[0]) <= 0).all()


def test_filters(empty: Empty) -> None:
    index, oracle = empty(16), Oracle()
    vectors = unit(np.random.default_rng(6), 50, 16)
    index.add(np.arange(50), vectors)
    oracle.add(list(range(50)), vectors)
    for allowed, forbidden in (([3, 4, 900], None), ([], None), (None, list(range(45))), ([1, 2, 3], [2]), ([1], [1])):
        assert_same(
            index.search(vectors[:3], 7, allowed=allowed, forbidden=forbidden),
            oracle.search(vectors[:3], 7, allowed, forbidden),
        )


def test_bad_rows_are_refused_and_nothing_is_added(empty: Empty) -> None:
    index = empty(3)
    for bad in ([[1, 0, np.nan], [0, 0, 1]], [[0, 0, 1], [0, 3, 4]]):
        with pytest.raises(IntegrityError):
            index.add([1, 2], np.array(bad))
    with pytest.raises(IntegrityError):
        index.search(np.zeros((1, 5)), 3)
    assert index.size == 0


def test_an_empty_index_finds_nothing(empty: Empty) -> None:
    index = empty(8)
    found, scores = index.search(np.zeros((2, 8), np.float32), 5)
    assert found.shape == scores.shape == (2, 0)
    assert index.ids().tolist() == []
    assert index.remove([1]) == 0


def test_it_is_kept_topped_up_and_dropped(engine: Engine) -> None:
    assert engine.open() is None
    index, vectors = engine.empty(8), unit(np.random.default_rng(8), 6, 8)
    index.add([1, 2, 3], vectors[:3])
    assert engine.keep(index, STAMP)
    found = engine.open()
    assert found is not None
    again, stamp = found
    assert stamp == Stamp("space", "metric", 1, index.kind, 3, "hash of the first event")
    again, stamp = store.sync_index(again, stamp, [(2, None), (9, vectors[5])], 4)
    assert engine.keep(again, stamp)
    assert not engine.keep(again, STAMP)
    found = engine.open()
    assert found is not None
    assert found[1] == Stamp("space", "metric", 4, index.kind, 3, "hash of the first event")
    assert_same(found[0].search(vectors, 5), again.search(vectors, 5))
    assert_same(found[0].search(vectors, 5, exact=True), again.search(vectors, 5))
    assert found[0].ids().tolist() == [1, 3, 9]
    engine.drop()
    assert engine.open() is None
    engine.drop()


def test_a_build_from_batches_is_the_index_of_all_their_rows(kind: str, engine: Engine) -> None:
    vectors = unit(np.random.default_rng(9), 50, 8)
    batches = [(np.arange(s, s + 10), vectors[s : s + 10]) for s in range(0, 50, 10)]
    built, stamp = engine.build(8, STAMP, iter(batches))
    assert stamp == Stamp("space", "metric", 1, kind, 50, "hash of the first event")
    found = engine.open()
    assert found is not None
    assert found[1] == stamp
    expected = Oracle()
    expected.add(list(range(50)), vectors)
    assert_same(built.search(vectors[:4], 9), expected.search(vectors[:4], 9))
    assert_same(found[0].search(vectors[:4], 9), expected.search(vectors[:4], 9))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_everything_kept_is_found_for_erasure(kind: str, tmp_path: Path) -> None:
    need(kind)
    options = {"kind": kind}
    for space in ("a", "b"):
        engine = engine_for(options, tmp_path, space, "metric", size=1)
        engine.build(4, STAMP, [(np.array([1]), lattice([1], 4))])
    found = list(kept_engines({}, tmp_path))  # the settings may have changed since
    assert len(found) == 2
    for one in found:
        assert one.open() is not None
        one.drop()
    assert [one.open() for one in kept_engines({}, tmp_path)] in ([], [None, None])


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("faiss", "faiss", "cpu"), ("milvus", "pymilvus", "milvus"), ("milvus", "milvus_lite", "milvus")],
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, module: str, extra: str
) -> None:
    monkeypatch.setattr("w2w_registry.index.milvus_server.find_spec", lambda name: None if name == module else object())
    monkeypatch.setitem(sys.modules, "faiss", None)
    faiss_scan.faiss.cache_clear()
    with pytest.raises(MissingExtra) as caught:
        engine_of(kind, tmp_path / "a-milvus", MilvusTarget(str(tmp_path / "a.db"))).empty(4)
    assert caught.value.fields["extra"] == extra


def test_auto_is_exact_until_it_is_large_and_faiss_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda name: object())
    assert choose_kind("auto", factory.FAISS_ROWS - 1) == "exact"
    assert choose_kind("auto", factory.FAISS_ROWS) == "faiss"
    assert choose_kind("exact", 10**9) == "exact"
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    assert choose_kind("auto", 10**9) == "exact"


def test_an_unknown_kind_is_a_setting_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError):
        engine_for({"kind": "hnsw"}, tmp_path, "space", "metric", size=1)
