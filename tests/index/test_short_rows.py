"""Rows stored short answer as rows stored whole do: candidates from one byte a component, the exact rows decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.index.conftest import need
from w2w_registry.errors import IntegrityError
from w2w_registry.index import faiss_index, generations, store
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.protocol import Batch, Ids, Stamp, Vectors
from w2w_registry.index.segments import SegmentedIndex
from w2w_registry.index.short_rows import shortened, spread_of

DIM, COUNT = 96, 12_000
STAMP = Stamp("space", "metric", 1, "", 0)


class Kept:
    """The exact rows, as a catalog has them, and how many were asked for."""

    def __init__(self, ids: Ids, vectors: Vectors) -> None:
        self.rows = dict(zip(ids.tolist(), vectors, strict=True))
        self.asked = 0

    def __call__(self, ids: Ids) -> Batch:
        assert len(ids)
        assert (ids[1:] > ids[:-1]).all()
        found = [i for i in ids.tolist() if i in self.rows]
        self.asked += len(ids)
        stacked = np.stack([self.rows[i] for i in found]) if found else np.empty((0, 0), np.float32)
        return np.array(found, np.int64), stacked


def unit(count: int, seed: int, decay: float = 0.3) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)) * np.arange(1, DIM + 1) ** -decay
    found: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def queries(vectors: Vectors, seed: int = 1) -> Vectors:
    """Copies, near copies, and strangers."""
    rng = np.random.default_rng(seed)
    near = vectors[40:60] + rng.normal(size=(20, DIM)).astype(np.float32) * np.float32(0.05)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return np.concatenate([vectors[:20], near, unit(40, seed)])


@pytest.fixture(params=[0.0, 0.3, 0.6])
def vectors(request: pytest.FixtureRequest) -> Vectors:
    need("faiss")
    return unit(COUNT, 0, request.param)


@pytest.fixture
def kept(vectors: Vectors) -> Kept:
    return Kept(np.arange(COUNT, dtype=np.int64), vectors)


@pytest.fixture
def engine(tmp_path: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> store.FolderEngine:
    monkeypatch.setattr(faiss_index, "FEW_ROWS", 64)
    monkeypatch.setattr(faiss_index, "FEW_SHARE", 400)
    return store.FolderEngine(tmp_path / "a-b-faiss", "faiss", kept)


def built(engine: store.FolderEngine, vectors: Vectors) -> SegmentedIndex:
    """Most rows in one segment, some in one after it, a few not saved; one row gone and one replaced."""
    ids = np.arange(len(vectors))
    most, some = len(vectors) - 600, len(vectors) - 50
    index, stamp = engine.build(DIM, STAMP, [(ids[:most], vectors[:most])])
    assert isinstance(index, SegmentedIndex)
    index.add(ids[most:some], vectors[most:some])
    index.remove([5])
    index.add([7], vectors[7:8])
    assert engine.keep(index, replace(stamp, seq=2))
    found = engine.open()
    assert found is not None
    assert isinstance(found[0], SegmentedIndex)
    found[0].add(ids[some:], vectors[some:])
    return found[0]


def oracle(vectors: Vectors) -> ExactIndex:
    found = ExactIndex(DIM)
    found.add(np.arange(len(vectors)), vectors)
    found.remove([5])
    return found


@pytest.mark.parametrize("restricted", [False, True])
def test_answers_are_those_of_whole_rows(
    engine: store.FolderEngine, vectors: Vectors, kept: Kept, restricted: bool
) -> None:
    index, truth, asked = built(engine, vectors), oracle(vectors), queries(vectors)
    assert all(segment.rows.errors is not None for segment in index.segments)
    assert not index.exhaustive
    allowed = np.arange(0, COUNT, 3) if restricted else None
    ids, scores = index.search(asked, 10, allowed=allowed)
    exact_ids, exact_scores = truth.search(asked, 10, allowed=allowed)
    same = ids == exact_ids
    assert same.mean() > 0.97
    assert same[:, 0].all()
    assert (scores[same] == exact_scores[same]).all()
    for found in (index.search(asked, 10, allowed=allowed, exact=True), index.search(asked[:1], 3, allowed=[9, 11])):
        ids, scores = found
        exact_ids, exact_scores = truth.search(
            asked[: len(ids)], ids.shape[1], allowed=[9, 11] if len(ids) == 1 else allowed
        )
        assert (ids == exact_ids).all()
        assert (scores == exact_scores).all()


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("limit", [None, 10])
def test_verdicts_are_those_of_whole_rows(
    engine: store.FolderEngine, vectors: Vectors, threshold: float, limit: int | None
) -> None:
    index, truth, asked = built(engine, vectors), oracle(vectors), queries(vectors)
    for found, expected in zip(
        index.above(asked, threshold, limit=limit), truth.above(asked, threshold, limit=limit), strict=True
    ):
        assert found[0].tolist() == expected[0].tolist()
        assert (found[1] == expected[1]).all()


def test_a_threshold_that_is_a_score_is_reached(engine: store.FolderEngine, vectors: Vectors) -> None:
    """To the last bit: what rounding makes of a row decides nothing."""
    index, truth, asked = built(engine, vectors), oracle(vectors), queries(vectors)
    ids, scores = truth.search(asked, 6)
    for query, last, score in zip(asked, ids[:, 5], scores[:, 5], strict=True):
        ((there, _),) = index.above(query[None], float(score))
        assert last in there
        ((beyond, _),) = index.above(query[None], float(np.nextafter(score, np.float32(2))))
        assert last not in beyond


def test_few_exact_rows_are_asked_for(engine: store.FolderEngine, vectors: Vectors, kept: Kept) -> None:
    index, asked = built(engine, vectors), queries(vectors)
    kept.asked = 0
    index.search(asked, 10)
    assert kept.asked <= 40 * len(asked)


def test_rows_take_a_byte_a_component(engine: store.FolderEngine, vectors: Vectors, tmp_path: Path) -> None:
    built(engine, vectors)
    size = sum(path.stat().st_size for path in tmp_path.rglob("vectors.*"))
    assert size <= (COUNT + 2) * DIM
    assert not list(tmp_path.rglob("vectors.f32"))


def test_one_piece_is_written_from_the_exact_rows(engine: store.FolderEngine, vectors: Vectors, kept: Kept) -> None:
    """Without those that have left the catalog since."""
    built(engine, vectors)
    del kept.rows[100]
    pieces, rows = engine.optimize() or (0, 0)
    assert pieces == 2
    found = engine.open()
    assert found is not None
    index = found[0]
    assert index.size == rows - 1 == COUNT - 50 - 2
    ((ids, batch),) = index.batches(rows=COUNT)
    assert (batch == vectors[ids]).all()
    assert not {5, 100} & set(ids.tolist())


def test_an_index_of_whole_rows_goes_on_serving(
    engine: store.FolderEngine, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an earlier release left it; what is added to it is short."""
    with monkeypatch.context() as patch:
        patch.setattr(generations, "FORMAT", 4)
        store.build(engine.folder, "faiss", DIM, STAMP, [(np.arange(COUNT - 500), vectors[: COUNT - 500])])
    found = engine.open()
    assert found is not None
    index, stamp = found
    index.add(np.arange(COUNT - 500, COUNT), vectors[COUNT - 500 :])
    index.remove([5])
    assert engine.keep(index, replace(stamp, seq=2))
    found = engine.open()
    assert found is not None
    index = found[0]
    assert isinstance(index, SegmentedIndex)
    assert [segment.rows.errors is None for segment in index.segments] == [True, False]
    asked = queries(vectors)
    assert (index.search(asked, 10, exact=True)[0] == oracle(vectors).search(asked, 10)[0]).all()


def test_short_rows_without_a_source_are_as_good_as_none(engine: store.FolderEngine, vectors: Vectors) -> None:
    built(engine, vectors)
    assert store.load(engine.folder) is None


def test_a_row_that_is_not_the_catalogs_is_found(engine: store.FolderEngine, vectors: Vectors, kept: Kept) -> None:
    index = built(engine, vectors)
    kept.rows[3] = vectors[4]
    with pytest.raises(IntegrityError, match="3"):
        index.search(vectors[3:4], 5)
    del kept.rows[3]
    with pytest.raises(IntegrityError, match="3"):
        index.above(vectors[3:4], 0.9)


def test_a_copy_reads_from_a_source_of_its_own(engine: store.FolderEngine, vectors: Vectors, kept: Kept) -> None:
    index = built(engine, vectors)
    other = index.copy()
    other.read_from(Kept(np.arange(COUNT), np.roll(vectors, 1, axis=0)))
    index.search(vectors[3:4], 5)
    with pytest.raises(IntegrityError):
        other.search(vectors[3:4], 5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(-6, 6), st.booleans())
def test_a_short_row_is_as_far_from_the_row_as_it_says(seed: int, count: int, decay: float, sparse: bool) -> None:
    """Also where the rows the spread is taken from are few, of one component, or nothing."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 40)) * np.arange(1.0, 41) ** decay
    if sparse:
        rows *= rng.random(rows.shape) < 0.1
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
    weights = spread_of(rows[: 1 + seed % count])
    codes, scales, errors = shortened(rows, weights)
    back = codes.astype(np.float64) * weights * scales[:, None]
    gaps = np.linalg.norm(rows - back, axis=1)
    assert (gaps <= errors).all()
    assert (errors <= gaps + 1e-4).all()
    assert np.isfinite(errors).all()
