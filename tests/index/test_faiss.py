from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.index.oracle import Oracle, unit
from w2w_registry.errors import IntegrityError
from w2w_registry.index import codes, faiss_index, faiss_scan, store
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.faiss_index import FaissIndex, FaissSegment
from w2w_registry.index.faiss_scan import Scan
from w2w_registry.index.protocol import Ids, Stamp, Vectors

faiss = pytest.importorskip("faiss", reason="faiss is not installed")

ROWS, DIM = 8000, 256
DECAY = 0.27  # of half-whitened coordinates, the default metric's: no prefix of them says much
STAMP = Stamp("space", "metric", 1, "", 0)


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return unit(np.random.default_rng(0), ROWS, DIM, DECAY)


@pytest.fixture(scope="module")
def queries(vectors: Vectors) -> Vectors:
    rng = np.random.default_rng(1)
    mixed = vectors[rng.choice(ROWS, 40)] + 0.6 * unit(rng, 40, DIM, DECAY)
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def oracle(vectors: Vectors) -> ExactIndex:
    index = ExactIndex(DIM)
    index.add(np.arange(ROWS), vectors)
    return index


@pytest.fixture(scope="module")
def saved(vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faiss")
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
def few_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes in use at sizes a test can afford, also where few rows are eligible."""
    monkeypatch.setattr(faiss_index, "SCAN_ROWS", 1000)
    monkeypatch.setattr(faiss_index, "FEW_ROWS", 0)
    monkeypatch.setattr(faiss_index, "FEW_SHARE", 10**9)
    monkeypatch.setattr(faiss_index, "THOROUGH", replace(faiss_index.THOROUGH, first=64, left=20))
    monkeypatch.setattr(faiss_index, "FAST", replace(faiss_index.FAST, share=0.3, first=40))


@pytest.fixture
def index(saved: Path, few_suffice: None) -> FaissIndex:
    """Opened from disk, with its codes in use."""
    index = opened(saved)
    assert not index.exhaustive
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


def test_recall_of_the_codes(index: FaissIndex, oracle: ExactIndex, queries: Vectors) -> None:
    assert agrees(index.search(queries, 10), oracle.search(queries, 10))
    assert agrees(index.search(queries, 1), oracle.search(queries, 1))


@pytest.mark.parametrize("fast", [False, True])
def test_many_queries_are_answered_as_each_by_itself(index: FaissIndex, queries: Vectors, fast: bool) -> None:
    ids, scores = index.search(queries, 10, fast=fast)
    for i, query in enumerate(queries):
        alone = index.search(query[None], 10, fast=fast)
        np.testing.assert_array_equal(alone[0][0], ids[i])
        np.testing.assert_array_equal(alone[1][0], scores[i])


def test_a_hurried_search_reads_fewer_rows_and_scores_them_the_same(
    index: FaissIndex, oracle: ExactIndex, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    products = FaissSegment.products
    monkeypatch.setattr(FaissSegment, "products", lambda s, q, at: (read.append(at.size), products(s, q, at))[1])
    truth = oracle.search(queries, 10)
    assert agrees(index.search(queries, 10), truth)
    thorough = sum(read)
    read.clear()
    assert agrees(index.search(queries, 10, fast=True), truth, 0.8)
    assert 0 < sum(read) < thorough


def test_rows_worse_coded_than_expected_are_asked_for(
    index: FaissIndex, oracle: ExactIndex, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many rows are read follows from what those read first show: with noisy estimates, many more."""
    noise = (0.05 * np.random.default_rng(11).standard_normal(ROWS)).astype(np.float32)
    top, asked = Scan.top, []

    def noisy(self: Scan, rotated: Vectors, wanted: int, **kw: bool) -> tuple[Vectors, Ids, Vectors]:
        scores, rows, bound = top(self, rotated, ROWS, **kw)
        asked.append(wanted)
        scores = scores + noise[rows]
        order = np.argsort(-scores, axis=1)[:, :wanted]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1), bound

    monkeypatch.setattr(Scan, "top", noisy)
    assert agrees(index.search(queries, 10), oracle.search(queries, 10))
    assert max(asked) > 200


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


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.5])
def test_no_spectrum_is_assumed(tmp_path: Path, few_suffice: None, decay: float) -> None:
    rows = unit(np.random.default_rng(3), 4000, 96, decay)
    index = FaissIndex(96)
    index.add(np.arange(4000), rows)
    store.save(tmp_path, index, STAMP)
    again = opened(tmp_path)
    assert not again.exhaustive
    assert agrees(again.search(rows[:20], 10), index.search(rows[:20], 10), 0.98)
    assert agrees(again.search(rows[:20], 10, exact=True), index.search(rows[:20], 10), 1.0)


def test_few_rows_and_narrow_ones_are_searched_exactly(tmp_path: Path, few_suffice: None) -> None:
    for name, count, dim in (("few", 30, 64), ("narrow", 2000, 4)):
        index, oracle = FaissIndex(dim), Oracle()
        rows = unit(np.random.default_rng(4), count, dim)
        index.add(np.arange(count), rows)
        oracle.add(list(range(count)), rows)
        store.save(tmp_path / name, index, STAMP)
        again = opened(tmp_path / name)
        assert again.exhaustive
        np.testing.assert_array_equal(again.search(rows[:3], 5)[0], oracle.search(rows[:3], 5)[0])


def test_a_filter_that_shuns_the_query_loses_nothing(index: FaissIndex, oracle: ExactIndex, queries: Vectors) -> None:
    """Eligible rows that are all far from the query: the scan proposes none of them at first."""
    near = np.unique(oracle.search(queries[:4], 3000)[0])
    allowed = np.setdiff1d(np.arange(ROWS), near)
    found = index.search(queries[:4], 10, allowed=allowed)
    assert agrees(found, oracle.search(queries[:4], 10, allowed=allowed), 0.98)


def test_rows_of_another_distribution_need_no_retraining(saved: Path, few_suffice: None, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(saved, work)
    rng = np.random.default_rng(9)
    centre = unit(rng, 1, DIM)
    shifted = unit(rng, 3000, DIM, 1.0) + centre
    shifted = (shifted / np.linalg.norm(shifted, axis=1, keepdims=True)).astype(np.float32)
    index = opened(work)
    index.add(np.arange(ROWS, ROWS + 3000), shifted)
    assert store.save(work, index, STAMP)
    again = opened(work)
    assert [len(segment.rows) for segment in again.segments] == [ROWS, 3000]
    exact = ExactIndex(DIM)
    for ids, rows in again.batches():
        exact.add(ids, rows)
    asked = shifted[:40] + np.float32(0.3) * unit(rng, 40, DIM)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    assert agrees(again.search(asked, 10), exact.search(asked, 10), 0.98)


@pytest.mark.parametrize("threshold", [0.2, 0.36, 0.8, 0.999, 1.01])
def test_everyone_above_a_threshold_and_nobody_else(
    index: FaissIndex, oracle: ExactIndex, queries: Vectors, vectors: Vectors, threshold: float
) -> None:
    rng = np.random.default_rng(12)
    asked = np.concatenate([queries, vectors[:10], unit(rng, 30, DIM, DECAY)])  # near someone, copies, strangers
    allowed = np.flatnonzero(rng.random(ROWS) < 0.5)
    for filters in ({}, {"allowed": allowed}, {"forbidden": allowed}):
        for found, true in zip(
            index.above(asked, threshold, **filters), oracle.above(asked, threshold, **filters), strict=True
        ):
            np.testing.assert_array_equal(found[0], true[0])
            np.testing.assert_array_equal(found[1], true[1])


@pytest.mark.parametrize("threshold", [-1.0, 0.1, 0.36, 0.8])
def test_the_best_few_above_a_threshold_are_proven_to_be_those(
    index: FaissIndex, oracle: ExactIndex, queries: Vectors, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    products = FaissSegment.products
    monkeypatch.setattr(FaissSegment, "products", lambda s, q, at: (read.append(at.size), products(s, q, at))[1])
    allowed = np.flatnonzero(np.random.default_rng(13).random(ROWS) < 0.5)
    for filters in ({}, {"allowed": allowed}, {"forbidden": allowed}):
        for limit in (1, 10):
            found = index.above(queries, threshold, limit=limit, **filters)
            for one, true in zip(found, oracle.above(queries, threshold, **filters), strict=True):
                np.testing.assert_array_equal(one[0], true[0][:limit])
                np.testing.assert_array_equal(one[1], true[1][:limit])
    assert sum(read) < 6 * len(queries) * ROWS / 8


def test_most_rows_are_proven_away_unread(index: FaissIndex, queries: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    (segment,) = index.segments
    read: list[int] = []
    take = segment.rows.take
    monkeypatch.setattr(segment.rows, "take", lambda rows, **kw: (read.append(len(rows)), take(rows, **kw))[1])
    assert all(len(ids) for ids, _ in index.above(queries[:10], 0.7))
    assert 0 < sum(read) < 10 * ROWS / 20


def test_a_proof_is_proposed_as_many_rows_as_the_last_one_needed(
    index: FaissIndex, oracle: ExactIndex, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "FIRST_PROOF", 8)
    fine, asked = index.segments[0].fine, []
    top = fine.top
    monkeypatch.setattr(fine, "top", lambda *a, **kw: (asked.append(a[1]), top(*a, **kw))[1])
    (true,) = oracle.above(queries[0], 0.2)
    for scans in (3, 1, 1):
        (found,) = index.above(queries[0], 0.2)
        np.testing.assert_array_equal(found[0], true[0])
        assert len(asked) == scans, asked
        del asked[:]


def test_two_builds_of_the_same_rows_are_the_same(saved: Path, vectors: Vectors, tmp_path: Path) -> None:
    index = FaissIndex(DIM)
    order = np.random.default_rng(5).permutation(ROWS)
    index.add(order, vectors[order])
    store.save(tmp_path, index, STAMP)
    for name in ("vectors.f32", "coarse.u8", "fine.u8", "errors.f32", "scale.f32"):
        (one,), (two,) = saved.rglob(name), tmp_path.rglob(name)
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", ["coarse.u8", "fine.u8"])
def test_damaged_codes_are_found_before_they_prove_anything(
    saved: Path, tmp_path: Path, queries: Vectors, few_suffice: None, name: str
) -> None:
    work = tmp_path / "work"
    shutil.copytree(saved, work)
    (path,) = work.rglob(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    index = opened(work)
    # many queries: the coarse codes are kept, and verified then
    ask = partial(index.above, queries[:1], 0.36) if name == "fine.u8" else partial(index.search, queries, 10)
    with pytest.raises(IntegrityError):
        ask()
    path.write_bytes(data[:-1])
    assert store.load(work) is None


def test_codes_on_disk_and_in_memory_and_in_threads_answer_alike(
    tmp_path: Path, few_suffice: None, vectors: Vectors, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (codes, faiss_scan):  # several chunks
        monkeypatch.setattr(module, "CHUNK", 1024)
    monkeypatch.setattr(faiss_scan, "WORTH_A_THREAD", 1024)
    index = FaissIndex(DIM)
    index.add(np.arange(ROWS), vectors)
    store.save(tmp_path, index, STAMP)
    answers = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        for resident in (0, 10**6):
            monkeypatch.setattr(faiss_scan, "RESIDENT_AFTER", resident)
            index = opened(tmp_path)
            (segment,) = index.segments
            assert len(segment.coarse._parts()) == int(threads)
            answers.append((index.search(queries, 10), index.above(queries, 0.36)))
            assert (segment.coarse.resident_bytes > 0) == (resident == 0)
    for (ids, scores), above in answers[1:]:
        np.testing.assert_array_equal(ids, answers[0][0][0])
        np.testing.assert_array_equal(scores, answers[0][0][1])
        assert [one[0].tolist() for one in above] == [one[0].tolist() for one in answers[0][1]]


def test_threads_propose_the_same_rows_even_where_the_best_lie_together(
    tmp_path: Path, few_suffice: None, vectors: Vectors, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (codes, faiss_scan):
        monkeypatch.setattr(module, "CHUNK", 1024)
    monkeypatch.setattr(faiss_scan, "WORTH_A_THREAD", 1024)
    nearest = np.argsort(-(vectors @ queries[0]), kind="stable")  # all of the first query's best in the first shard
    index = FaissIndex(DIM)
    index.add(np.arange(ROWS), vectors[nearest])
    store.save(tmp_path, index, STAMP)
    proposed = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        (segment,) = opened(tmp_path).segments
        proposed.append(segment.propose(queries[:16], 400)[0])
        assert len(segment.coarse._shards) == int(threads)
    np.testing.assert_array_equal(proposed[0], proposed[1])


def test_a_faiss_that_packs_otherwise_is_not_believed(
    saved: Path, few_suffice: None, oracle: ExactIndex, queries: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = faiss_scan.pack
    monkeypatch.setattr(faiss_scan, "pack", lambda codes: real(codes)[::-1])
    faiss_scan._understood.cache_clear()
    index = opened(saved)
    assert index.exhaustive
    assert agrees(index.search(queries[:3], 10), oracle.search(queries[:3], 10), 1.0)
    faiss_scan._understood.cache_clear()


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
        assert agrees(index.search(queries, 10, **filters), oracle.search(queries, 10, **filters), 0.98)
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
