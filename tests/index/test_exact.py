from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.index.oracle import Oracle, assert_same, lattice, unit
from w2w_registry.errors import IntegrityError
from w2w_registry.index import disk, exact, store
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.protocol import Stamp
from w2w_registry.index.rows import write_rows

STAMP = Stamp("space", "metric", 1, "exact", 0)


def reopened(index: ExactIndex, folder: Path) -> ExactIndex:
    """The index as another process would read it."""
    assert store.save(folder, index, STAMP)
    found = store.load(folder)
    assert found is not None
    assert isinstance(found[0], ExactIndex)
    return found[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 600),
    dim=st.sampled_from([33, 64, 100]),
    decay=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    limit=st.integers(0, 40),
    twins=st.integers(0, 5),
    kept=st.sampled_from([None, 0.02, 0.4, 1.0]),
)
def test_the_search_is_the_search_of_every_row(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int, count: int, dim: int, decay: float, limit: int, twins: int, kept: float | None,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    vectors = unit(rng, count, dim, decay)
    vectors[rng.integers(0, count, twins)] = vectors[0]  # equal scores, told apart by id
    ids = rng.permutation(5 * count)[:count] - count
    index, oracle = ExactIndex(dim), Oracle()
    index.add(ids, vectors)
    oracle.add(ids.tolist(), vectors)
    index = reopened(index, tmp_path_factory.mktemp("index"))
    gone, new = ids[: count // 10], unit(rng, 3, dim, decay)
    index.remove(gone)
    oracle.remove(gone.tolist())
    index.add(ids[-3:], new[: len(ids[-3:])])
    oracle.add(ids[-3:].tolist(), new[: len(ids[-3:])])
    allowed = None if kept is None else ids[rng.random(count) < kept]
    forbidden = ids[rng.random(count) < 0.1]
    queries = np.concatenate([vectors[:1], unit(rng, 2, dim, decay)])
    assert_same(
        index.search(queries, limit, allowed=allowed, forbidden=forbidden),
        oracle.search(queries, limit, None if allowed is None else allowed.tolist(), forbidden.tolist()),
    )


def test_a_query_at_the_centre_ties_with_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BLOCK_BYTES", 64 * 4 * 10)
    index = ExactIndex(64)
    index.add(np.arange(100, 0, -1), unit(np.random.default_rng(4), 100, 64, 1.0))
    for opened in (index, reopened(index, tmp_path / "a")):
        ids, scores = opened.search(np.zeros((1, 64), np.float32), 5)
        assert ids.tolist() == [[1, 2, 3, 4, 5]]
        assert scores.tolist() == [[0.0] * 5]


@settings(deadline=None)
@given(picks=st.lists(st.integers(0, 20), min_size=1, max_size=40), limit=st.integers(0, 50), query=st.integers(0, 20))
def test_ties_go_by_id_and_all_rows_come_when_all_are_asked(picks: list[int], limit: int, query: int) -> None:
    index, oracle = ExactIndex(4), Oracle()
    ids = list(range(len(picks), 0, -1))
    index.add(ids, lattice(picks, 4))
    oracle.add(ids, lattice(picks, 4))
    assert_same(index.search(lattice([query], 4), limit), oracle.search(lattice([query], 4), limit))


def test_rows_are_written_in_id_order_only(tmp_path: Path) -> None:
    rows = np.zeros((2, 3), np.float32)
    with pytest.raises(IntegrityError):
        write_rows(tmp_path, 3, [(np.array([4, 2]), rows)])
    with pytest.raises(IntegrityError):
        write_rows(tmp_path, 3, [(np.array([1, 2]), rows), (np.array([2, 3]), rows)])


def test_a_damaged_row_of_a_large_index_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "EAGER_BYTES", 0)
    index = ExactIndex(8)
    vectors = unit(np.random.default_rng(2), 50, 8)
    index.add(np.arange(50), vectors)
    assert_same(reopened(index, tmp_path / "a").search(vectors[:2], 4), index.search(vectors[:2], 4))
    (path,) = (tmp_path / "a").glob("seg-*/vectors.f32")
    data = bytearray(path.read_bytes())
    data[40 * 32 + 5] ^= 4
    path.write_bytes(data)
    found = store.load(tmp_path / "a")
    assert found is not None
    with pytest.raises(IntegrityError) as caught:
        found[0].search(vectors[:1], 4)
    assert caught.value.fields["name"] == "40"
    with pytest.raises(IntegrityError):
        store.save(tmp_path / "b", found[0], STAMP)
    assert store.load(tmp_path / "b") is None
