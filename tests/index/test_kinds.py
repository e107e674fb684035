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

from tests.index.conftest import need
from tests.index.oracle import Oracle, assert_same, lattice, unit
from w2w_registry.errors import IntegrityError, MissingExtra, SettingError
from w2w_registry.index import factory, store
from w2w_registry.index.factory import choose_kind, open_index
from w2w_registry.index.milvus import MilvusTarget
from w2w_registry.index.protocol import Stamp, VectorIndex

DIM = 4
STAMP = Stamp("space", "metric", 1, "", 0)
Empty = Callable[[int], VectorIndex]

ids = st.integers(-3, 25)
some = st.lists(ids, max_size=12)
steps = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(ids, st.integers(0, 20)), max_size=12)),
    st.tuples(st.just("remove"), some),
    st.tuples(st.just("search"), st.integers(0, 20), st.integers(0, 30), st.none() | some, st.none() | some),
    st.tuples(st.just("reopen")),
)


def follow(sequence: list[Any], index: VectorIndex, folder: Path, target: MilvusTarget | None) -> None:
    """Play ``sequence`` on the index and on the oracle; they never differ."""
    oracle = Oracle()
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
        else:
            assert store.save(folder, index, Stamp("space", "metric", seq, "", 0))
            found = store.load(folder, milvus=target)
            assert found is not None
            index, stamp = found
            assert (stamp.seq, stamp.size, stamp.kind) == (seq, len(oracle.rows), index.kind)
        assert index.size == len(oracle.rows)
        assert index.ids().tolist() == sorted(oracle.rows)


@settings(max_examples=30, deadline=None)
@given(sequence=st.lists(steps, max_size=25))
@pytest.mark.parametrize("fast", ["exact", "faiss"])
def test_any_sequence_agrees_with_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, fast: str, sequence: list[Any]
) -> None:
    need(fast)
    follow(sequence, open_index(fast, dim=DIM), tmp_path_factory.mktemp("index"), None)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(steps, min_size=5, max_size=10))
def test_any_sequence_agrees_with_the_oracle_on_milvus(
    tmp_path_factory: pytest.TempPathFactory, milvus: MilvusTarget, sequence: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("index") / "a-b-milvus"
    follow(sequence, open_index("milvus", dim=DIM, folder=folder, milvus=milvus), folder, milvus)


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


def test_it_is_kept_topped_up_and_discarded(empty: Empty, folder: Path, target: MilvusTarget | None) -> None:
    assert store.load(folder, milvus=target) is None
    index, vectors = empty(8), unit(np.random.default_rng(8), 6, 8)
    index.add([1, 2, 3], vectors[:3])
    assert store.save(folder, index, STAMP)
    found = store.load(folder, milvus=target)
    assert found is not None
    again, stamp = found
    assert stamp == Stamp("space", "metric", 1, index.kind, 3)
    again, stamp = store.sync_index(again, stamp, [(2, None), (9, vectors[5])], 4)
    assert store.save(folder, again, stamp)
    assert not store.save(folder, again, STAMP)
    found = store.load(folder, milvus=target)
    assert found is not None
    assert found[1] == Stamp("space", "metric", 4, index.kind, 3)
    assert_same(found[0].search(vectors, 5), again.search(vectors, 5))
    assert found[0].ids().tolist() == [1, 3, 9]
    store.discard(folder, milvus=target)
    assert store.load(folder, milvus=target) is None
    store.discard(folder, milvus=target)


def test_a_build_from_batches_is_the_index_of_all_their_rows(
    kind: str, empty: Empty, folder: Path, target: MilvusTarget | None
) -> None:
    vectors = unit(np.random.default_rng(9), 50, 8)
    batches = [(np.arange(s, s + 10), vectors[s : s + 10]) for s in range(0, 50, 10)]
    built, stamp = store.build(folder, kind, 8, STAMP, iter(batches), milvus=target)
    assert stamp == Stamp("space", "metric", 1, kind, 50)
    found = store.load(folder, milvus=target)
    assert found is not None
    assert found[1] == stamp
    expected = Oracle()
    expected.add(list(range(50)), vectors)
    assert_same(built.search(vectors[:4], 9), expected.search(vectors[:4], 9))
    assert_same(found[0].search(vectors[:4], 9), expected.search(vectors[:4], 9))


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("faiss", "faiss", "cpu"), ("milvus", "pymilvus", "milvus"), ("milvus", "milvus_lite", "milvus")],
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, module: str, extra: str
) -> None:
    monkeypatch.setattr("w2w_registry.index.milvus.find_spec", lambda name: None if name == module else object())
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra) as caught:
        open_index(kind, dim=4, folder=tmp_path / "a-milvus", milvus=MilvusTarget(str(tmp_path / "a.db")))
    assert caught.value.fields["extra"] == extra


def test_auto_is_exact_until_it_is_large_and_faiss_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda name: object())
    assert choose_kind("auto", factory.FAISS_ROWS - 1) == "exact"
    assert choose_kind("auto", factory.FAISS_ROWS) == "faiss"
    assert choose_kind("exact", 10**9) == "exact"
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    assert choose_kind("auto", 10**9) == "exact"


def test_an_unknown_kind_and_a_milvus_without_a_place_are_setting_errors() -> None:
    with pytest.raises(SettingError):
        open_index("hnsw", dim=4)
    with pytest.raises(SettingError):
        open_index("milvus", dim=4)
