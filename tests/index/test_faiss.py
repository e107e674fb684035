from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.index.oracle import Oracle, unit
from w2w_registry.index import faiss_index, store
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.faiss_index import FaissIndex
from w2w_registry.index.protocol import Ids, Stamp, Vectors

faiss = pytest.importorskip("faiss", reason="faiss is not installed")

ROWS, DIM = 8000, 96
STAMP = Stamp("space", "metric", 1, "", 0)


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return unit(np.random.default_rng(0), ROWS, DIM, 0.8)


@pytest.fixture(scope="module")
def queries(vectors: Vectors) -> Vectors:
    rng = np.random.default_rng(1)
    mixed = vectors[rng.choice(ROWS, 40)] + 0.6 * unit(rng, 40, DIM, 0.8)
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def oracle(vectors: Vectors) -> ExactIndex:
    index = ExactIndex(DIM)
    index.add(np.arange(ROWS), vectors)
    return index


@pytest.fixture(scope="module")
def saved(vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faiss")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_index, "IVF_ROWS", 1000)
        index = FaissIndex(DIM)
        index.add(np.arange(ROWS), vectors)
        assert store.save(folder, index, STAMP)
    return folder


def opened(folder: Path) -> FaissIndex:
    found = store.load(folder)
    assert found is not None
    assert isinstance(found[0], FaissIndex)
    return found[0]


@pytest.fixture
def index(saved: Path, monkeypatch: pytest.MonkeyPatch) -> FaissIndex:
    """Opened from disk, with its lists in use also where few rows are eligible."""
    monkeypatch.setattr(faiss_index, "FEW_ROWS", 0)
    monkeypatch.setattr(faiss_index, "CANDIDATES", 128)
    index = opened(saved)
    assert index.nprobe is not None
    return index


def recall(found: Ids, truth: Ids) -> float:
    return float(np.mean([np.isin(best, row).mean() for best, row in zip(truth, found, strict=True)]))


def agrees(found: tuple[Ids, Vectors], truth: tuple[Ids, Vectors], at_least: float = 0.95) -> bool:
    """Recall as asked; and where a row was found, its score is the oracle's."""
    for ids, scores, best, best_scores in zip(*found, *truth, strict=True):
        _, a, b = np.intersect1d(ids, best, return_indices=True)
        np.testing.assert_array_equal(scores[a], best_scores[b])
        assert (np.lexsort((ids, -scores)) == np.arange(len(ids))).all()
    return recall(found[0], truth[0]) >= at_least


def test_recall_of_the_lists(index: FaissIndex, oracle: ExactIndex, queries: Vectors) -> None:
    assert agrees(index.search(queries, 10), oracle.search(queries, 10))
    assert agrees(index.search(queries, 1), oracle.search(queries, 1))


@pytest.mark.parametrize("share", [0.6, 0.1])
def test_recall_under_a_filter(index: FaissIndex, oracle: ExactIndex, queries: Vectors, share: float) -> None:
    rng = np.random.default_rng(2)
    allowed = np.flatnonzero(rng.random(ROWS) < share)
    forbidden = allowed[::7]
    found = index.search(queries, 10, allowed=allowed, forbidden=forbidden)
    assert np.isin(found[0], np.setdiff1d(allowed, forbidden)).all()
    assert agrees(found, oracle.search(queries, 10, allowed=allowed, forbidden=forbidden))


def test_removed_and_replaced_rows(index: FaissIndex, vectors: Vectors, queries: Vectors) -> None:
    before, _ = index.search(queries, 3)
    gone = np.unique(before[:, 0])
    assert index.remove(gone) == len(gone)
    index.add([ROWS + 7], queries[:1])
    index.add([5], queries[1:2])
    after, scores = index.search(queries, 3)
    assert not np.isin(after, np.setdiff1d(gone, [5])).any()
    assert after[0, 0] == ROWS + 7
    assert after[1, 0] == 5
    np.testing.assert_allclose(scores[:2, 0], 1, rtol=1e-6)
    exact = ExactIndex(DIM)
    for ids, rows in index.batches():
        exact.add(ids, rows)
    assert exact.size == index.size
    assert agrees((after, scores), exact.search(queries, 3))


def test_as_many_rows_as_are_asked_always_come(index: FaissIndex, oracle: ExactIndex, queries: Vectors) -> None:
    for limit in (200, 3000, ROWS + 5):
        found, _ = index.search(queries[:3], limit)
        assert found.shape == (3, min(limit, ROWS))
        assert all(len(set(row.tolist())) == len(row) for row in found)
    assert agrees(index.search(queries[:3], 3000), oracle.search(queries[:3], 3000), 1.0)


def test_a_spectrum_that_lists_cannot_serve_is_searched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "IVF_ROWS", 1000)
    flat = unit(np.random.default_rng(3), 4000, DIM)
    index = FaissIndex(DIM)
    index.add(np.arange(4000), flat)
    store.save(tmp_path, index, STAMP)
    again = opened(tmp_path)
    assert again.nprobe is None
    assert agrees(again.search(flat[:5], 10), index.search(flat[:5], 10), 1.0)


def test_few_rows_get_no_lists(tmp_path: Path) -> None:
    index, oracle = FaissIndex(4), Oracle()
    rows = unit(np.random.default_rng(4), 30, 4)
    index.add(np.arange(30), rows)
    oracle.add(list(range(30)), rows)
    store.save(tmp_path, index, STAMP)
    again = opened(tmp_path)
    assert again.nprobe is None
    np.testing.assert_array_equal(again.search(rows, 5)[0], oracle.search(rows, 5)[0])


def test_two_builds_of_the_same_rows_are_the_same(
    saved: Path, vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "IVF_ROWS", 1000)
    index = FaissIndex(DIM)
    order = np.random.default_rng(5).permutation(ROWS)
    index.add(order, vectors[order])
    store.save(tmp_path, index, STAMP)
    for name in ("vectors.f32", "coarse.json"):
        (one,), (two,) = saved.rglob(name), tmp_path.rglob(name)
        assert one.read_bytes() == two.read_bytes()


def test_damaged_lists_are_a_missing_index(saved: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(saved, work)
    (path,) = work.rglob("coarse.faiss")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert store.load(work) is None
    path.write_bytes(data[:-1])
    assert store.load(work) is None


def with_a_card(monkeypatch: pytest.MonkeyPatch, flat: object) -> None:
    """faiss as its GPU build looks, one card in the machine; ``flat`` stands for the index on it."""
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss_index, "_gpu_flat", flat)
    monkeypatch.setattr(faiss_index, "GPU_AFTER", 2)


def test_a_card_takes_over_after_a_few_queries(
    index: FaissIndex, oracle: ExactIndex, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def flat(module: ModuleType, dim: int) -> object:
        made.append(module.IndexFlatIP(dim))
        return made[-1]

    with_a_card(monkeypatch, flat)
    index.search(queries[:1], 10)
    assert not made
    allowed = np.arange(0, ROWS, 3)
    for filters in ({}, {"allowed": allowed}, {"forbidden": allowed}):
        assert agrees(index.search(queries, 10, **filters), oracle.search(queries, 10, **filters), 0.99)
    assert len(made) == 1
    assert made[0].ntotal == ROWS


def test_a_card_without_room_leaves_the_work_to_the_cpu(
    index: FaissIndex, oracle: ExactIndex, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def no_room(_rows: Vectors) -> None:
        tried.append(1)
        raise RuntimeError("cudaMalloc failed")

    with_a_card(monkeypatch, lambda *_: SimpleNamespace(add=no_room))
    for _ in range(3):
        assert agrees(index.search(queries, 10), oracle.search(queries, 10))
    assert len(tried) == 1
