from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.index.oracle import assert_same, lattice, unit
from w2w_registry.errors import StorageError
from w2w_registry.index import disk, generations, store
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.protocol import Batch, Stamp

STAMP = Stamp("s" * 64, "m" * 64, 7, "exact", 3)
QUERY = np.array([[0.6, 0.8, 0, 0]], np.float32)


def index_of(*ids: int) -> ExactIndex:
    index = ExactIndex(4)
    index.add(np.array(ids, np.int64), lattice(list(ids), 4) if ids else np.empty((0, 4), np.float32))
    return index


def kept(folder: Path) -> tuple[list[int], Stamp] | None:
    found = store.load(folder)
    return None if found is None else (found[0].ids().tolist(), found[1])


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "index" / "space-metric-exact"
    assert store.load(folder) is None
    index = index_of(1, 2, 9)
    assert store.save(folder, index, STAMP)
    found = store.load(folder)
    assert found is not None
    assert found[1] == STAMP
    assert_same(found[0].search(QUERY, 5), index.search(QUERY, 5))


def test_an_empty_index_is_kept_too(tmp_path: Path) -> None:
    assert store.save(tmp_path, index_of(), STAMP)
    assert kept(tmp_path) == ([], replace(STAMP, size=0))


def test_a_save_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1, 2, 3), STAMP)
    store.save(tmp_path, index_of(4), replace(STAMP, seq=8))
    assert kept(tmp_path) == ([4], replace(STAMP, seq=8, size=1))
    assert [p.name[:4] for p in sorted(tmp_path.glob("*-*"))] == ["gen-", "seg-"]


def test_an_open_index_goes_on_reading_the_generation_it_opened(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1, 2, 3), STAMP)
    found = store.load(tmp_path)
    assert found is not None
    store.save(tmp_path, index_of(4), replace(STAMP, seq=8))
    assert_same(found[0].search(QUERY, 5), index_of(1, 2, 3).search(QUERY, 5))


def test_an_older_state_does_not_replace_a_newer_one_but_another_catalogs_does(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1), replace(STAMP, seq=9))
    assert not store.save(tmp_path, index_of(2), replace(STAMP, seq=8))
    assert kept(tmp_path) == ([1], replace(STAMP, seq=9, size=1))
    assert store.save(tmp_path, index_of(2), replace(STAMP, seq=8, space_digest="t" * 64))


def test_while_another_saves_nothing_is_written(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1), STAMP)
    with disk.lock(tmp_path, wait=True):
        assert not store.save(tmp_path, index_of(2), replace(STAMP, seq=8))
        assert kept(tmp_path) == ([1], replace(STAMP, size=1))


def test_discard_erases_every_byte_of_it(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1), STAMP)
    (tmp_path / "tmp-left").mkdir()
    store.discard(tmp_path)
    assert store.load(tmp_path) is None
    assert [p.name for p in tmp_path.rglob("*")] == ["LOCK"]
    store.discard(tmp_path)
    store.discard(tmp_path / "never there")


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        store.save(tmp_path / "file" / "index", index_of(1), STAMP)


def files_of(folder: Path) -> list[Path]:
    """Every file of the cache, the lock apart."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != disk.LOCK)


def test_a_file_cut_at_any_byte_is_never_trusted(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1, 2, 3), STAMP)
    whole, cuts = kept(tmp_path), 0
    for path in files_of(tmp_path):
        data = path.read_bytes()
        for cut in range(len(data)):
            path.write_bytes(data[:cut])
            found = kept(tmp_path)
            # only the line end after the pointer's digest may be missing
            assert found is None or (path.name == generations.POINTER and cut == len(data) - 1 and found == whole)
            cuts += 1
        path.write_bytes(data)
    assert cuts > 500
    assert kept(tmp_path) == whole


def test_a_changed_byte_anywhere_is_never_trusted(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1, 2, 3), STAMP)
    whole = kept(tmp_path)
    for path in files_of(tmp_path):
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :])
            found = kept(tmp_path)
            assert found is None or (path.name == generations.POINTER and at == len(data) - 1 and found == whole)
        path.write_bytes(data + b"\0")
        assert kept(tmp_path) is None or path.name == generations.POINTER
        path.write_bytes(data)
    assert kept(tmp_path) == whole


@pytest.mark.parametrize("name", ["CURRENT", "manifest.json", "ids.i64", "vectors.f32", "sums.u32"])
def test_a_missing_file_is_a_missing_index(tmp_path: Path, name: str) -> None:
    store.save(tmp_path, index_of(1, 2, 3), STAMP)
    (path,) = tmp_path.rglob(name)
    path.unlink()
    assert store.load(tmp_path) is None
    assert store.save(tmp_path, index_of(1, 2, 3), STAMP)
    assert kept(tmp_path) == ([1, 2, 3], STAMP)


@pytest.mark.parametrize("name", ["CURRENT", "manifest.json", "ids.i64", "vectors.f32", "sums.u32"])
def test_a_pipe_is_a_missing_index_and_nobody_waits_for_it(tmp_path: Path, name: str) -> None:
    store.save(tmp_path, index_of(1, 2, 3), STAMP)
    (path,) = tmp_path.rglob(name)
    path.unlink()
    os.mkfifo(path)
    assert store.load(tmp_path) is None
    assert store.save(tmp_path, index_of(1, 2, 3), STAMP)
    assert kept(tmp_path) == ([1, 2, 3], STAMP)


def test_a_pipe_for_a_lock_is_a_storage_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / disk.LOCK)
    with pytest.raises(StorageError):
        store.save(tmp_path, index_of(1), STAMP)


def test_another_format_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(generations, "FORMAT", generations.FORMAT + 1)
        store.save(tmp_path, index_of(1), STAMP)
    assert store.load(tmp_path) is None


@pytest.mark.parametrize("pointer", [b"", b"\xff\xfe", b"gen-../.. x", b"../gen-1 00", b"gen-none 00\n"])
def test_a_strange_pointer_is_a_missing_index(tmp_path: Path, pointer: bytes) -> None:
    store.save(tmp_path, index_of(1), STAMP)
    (tmp_path / generations.POINTER).write_bytes(pointer)
    assert store.load(tmp_path) is None


class Killed(BaseException):
    """The process ends here."""


def test_a_crash_at_any_instant_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ([1, 2, 3], STAMP), ([4, 5], replace(STAMP, seq=8, size=2))
    seen, step = [], 0
    while True:
        folder = tmp_path / str(step)
        store.save(folder, index_of(1, 2, 3), STAMP)
        left = step
        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (os, "replace"), (Path, "rename"), (Path, "mkdir"), (shutil, "rmtree")):
                real = getattr(owner, name)

                def dying(*args: object, real: object = real, **kwargs: object) -> object:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise Killed
                    return real(*args, **kwargs)  # type: ignore[operator]

                patch.setattr(owner, name, dying)
            try:
                store.save(folder, index_of(4, 5), new[1])
            except Killed:
                pass
            else:
                break
        found = kept(folder)
        assert found in (old, new)
        seen.append(found)
        assert store.save(folder, index_of(4, 5), new[1])
        assert kept(folder) == new
        assert len(list(folder.glob("*-*"))) == 2  # nothing of the dead writer remains
        step += 1
    assert old in seen
    assert new in seen
    assert seen == sorted(seen, key=lambda found: found[1].seq)  # type: ignore[index]


WRITER = """
import sys, numpy as np
from pathlib import Path
from w2w_registry.index import store
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.protocol import Batch, Stamp
folder, first = Path(sys.argv[1]), int(sys.argv[2])
for seq in range(first, first + 60):
    index = ExactIndex(16)
    index.add(np.arange(seq % 7 + 1), np.full((seq % 7 + 1, 16), seq / 1000, np.float32))
    store.save(folder, index, Stamp("s", "m", seq, "", 0))
"""


def test_readers_always_see_one_whole_generation_while_two_processes_write(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
    writers = [subprocess.Popen([*command, first]) for first in ("1", "31")]
    last, seen = 0, set()
    try:
        while any(writer.poll() is None for writer in writers):
            found = store.load(tmp_path)
            if found is None:
                assert last == 0  # once there is one, there always is one
                continue
            index, stamp = found
            ids, scores = index.search(np.full((1, 16), 0.25, np.float32), 10)
            assert ids.tolist() == [list(range(stamp.seq % 7 + 1))]
            np.testing.assert_allclose(scores, 16 * 0.25 * stamp.seq / 1000, rtol=1e-6)
            assert stamp.seq >= last
            last = stamp.seq
            seen.add(last)
    finally:
        codes = [writer.wait() for writer in writers]
    assert codes == [0, 0]
    assert len(seen) > 1
    assert len(list(tmp_path.glob("gen-*"))) == 1


Change = st.tuples(st.integers(1, 30), st.one_of(st.none(), st.integers(0, 20)))


@settings(deadline=None)
@given(first=st.lists(Change, max_size=40), then=st.lists(Change, max_size=40), split=st.integers(1, 50))
def test_topping_up_equals_rebuilding(
    first: list[tuple[int, int | None]], then: list[tuple[int, int | None]], split: int
) -> None:
    def changes(log: list[tuple[int, int | None]]) -> list[store.Change]:
        return [(key, None if pick is None else lattice([pick], 4)[0]) for key, pick in log]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_SYNC_ROWS", split)
        index, stamp = store.sync_index(ExactIndex(4), replace(STAMP, seq=0, size=0), changes(first), 5)
        # the overlap is applied again, as after a crash between a top-up and its stamp
        index, stamp = store.sync_index(index, stamp, changes(first[-3:] + then), 9)
    final: dict[int, int | None] = dict(first)
    final.update(first[-3:] + then)
    live = sorted(key for key, pick in final.items() if pick is not None)
    rebuilt = ExactIndex(4)
    if live:
        rebuilt.add(live, lattice([final[key] or 0 for key in live], 4))
    assert index.ids().tolist() == live
    assert (stamp.seq, stamp.size) == (9, len(live))
    assert_same(index.search(QUERY, 40), rebuilt.search(QUERY, 40))


def test_a_topped_up_index_saves_what_a_rebuilt_one_would(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    vectors = unit(rng, 40, 12)
    store.save(tmp_path / "a", (index := ExactIndex(12)), STAMP)
    index.add(np.arange(30), vectors[:30])
    store.save(tmp_path / "a", index, STAMP)
    found = store.load(tmp_path / "a")
    assert found is not None
    changes: list[store.Change] = [(int(i), vectors[i]) for i in (35, 31, 3)]
    index, stamp = store.sync_index(found[0], found[1], [*changes, (4, None), (99, None)], 11)  # type: ignore[assignment]
    store.save(tmp_path / "a", index, stamp)
    store.optimize(tmp_path / "a")
    fresh = ExactIndex(12)
    live = [i for i in range(30) if i != 4] + [31, 35]
    fresh.add(live, vectors[live])
    store.save(tmp_path / "b", fresh, stamp)
    for name in ("ids.i64", "vectors.f32", "sums.u32"):
        (one,), (two,) = (tmp_path / "a").rglob(name), (tmp_path / "b").rglob(name)
        assert one.read_bytes() == two.read_bytes()


def test_a_build_while_another_saves_stays_in_memory(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1), STAMP)
    batches = [(np.array([2, 3]), lattice([2, 3], 4))]
    with disk.lock(tmp_path, wait=True):
        index, stamp = store.build(tmp_path, "exact", 4, replace(STAMP, seq=8), iter(batches))
    assert index.ids().tolist() == [2, 3]
    assert (stamp.seq, stamp.size) == (8, 2)
    assert kept(tmp_path) == ([1], replace(STAMP, size=1))


def test_a_build_whose_rows_fail_leaves_the_old_one(tmp_path: Path) -> None:
    def rows() -> Iterator[Batch]:
        yield np.array([5]), lattice([5], 4)
        raise LookupError("the database went away")

    store.save(tmp_path, index_of(1), STAMP)
    with pytest.raises(LookupError):
        store.build(tmp_path, "exact", 4, replace(STAMP, seq=8), rows())
    assert kept(tmp_path) == ([1], replace(STAMP, size=1))
    store.build(tmp_path, "exact", 4, replace(STAMP, seq=8), [(np.array([5]), lattice([5], 4))])
    assert kept(tmp_path) == ([5], replace(STAMP, seq=8, size=1))
    assert not list(tmp_path.glob("tmp-*"))


def test_a_damaged_newer_one_is_replaced_by_an_older_state(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1, 2), replace(STAMP, seq=9))
    (path,) = tmp_path.rglob("vectors.f32")
    path.write_bytes(bytes(path.stat().st_size))
    assert store.save(tmp_path, index_of(1), replace(STAMP, seq=8))
    assert kept(tmp_path) == ([1], replace(STAMP, seq=8, size=1))


def test_a_save_pays_when_nothing_is_kept_or_a_tenth_has_changed() -> None:
    index = ExactIndex(4)
    assert store.worth_saving(index, None)
    assert not store.worth_saving(index, 0)
    index.add(np.arange(100), lattice(list(range(100)), 4))
    assert store.worth_saving(index, 0)
    assert store.worth_saving(index, 900)
    assert not store.worth_saving(index, 1000)
    index.add(np.arange(store._SAVE_ROWS + 1), lattice(list(range(store._SAVE_ROWS + 1)), 4))
    assert store.worth_saving(index, 10**6)


def segments(folder: Path) -> list[int]:
    """Rows in each segment, dead ones too."""
    found = store.load(folder)
    assert found is not None
    assert isinstance(found[0], ExactIndex)
    return [len(segment.rows) for segment in found[0].segments]


def test_a_save_writes_what_changed_and_folds_what_is_short(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(3), 200, 12)
    oracle = ExactIndex(12)
    store.build(tmp_path, "exact", 12, replace(STAMP, seq=0), [(np.arange(100), vectors[:100])])
    (first,) = tmp_path.glob("seg-*/vectors.f32")
    inode = first.stat().st_ino
    oracle.add(np.arange(100), vectors[:100])
    seen = []
    for seq, start in enumerate(range(100, 160, 6), start=1):
        found = store.load(tmp_path)
        assert found is not None
        changes: list[store.Change] = [(int(i), vectors[i]) for i in range(start, start + 6)] + [(start - 100, None)]
        index, stamp = store.sync_index(found[0], found[1], changes, seq)
        assert store.save(tmp_path, index, stamp)
        oracle.add(np.arange(start, start + 6), vectors[start : start + 6])
        oracle.remove([start - 100])
        again = store.load(tmp_path)
        assert again is not None
        assert_same(again[0].search(vectors[:5], 200), oracle.search(vectors[:5], 200))
        seen.append(segments(tmp_path))
        if seen[-1][0] == 100:
            assert first.stat().st_ino == inode
    assert [100, 6] in seen
    assert max(len(one) for one in seen) <= 4
    assert store.optimize(tmp_path) is not None
    assert segments(tmp_path) == [oracle.size]
    final = store.load(tmp_path)
    assert final is not None
    assert_same(final[0].search(vectors[:5], 200), oracle.search(vectors[:5], 200))
    assert len(list(tmp_path.glob("*-*"))) == 2


def test_a_save_of_an_index_whose_segments_are_gone_writes_all_of_it(tmp_path: Path) -> None:
    store.save(tmp_path, index_of(1, 2, 3), STAMP)
    found = store.load(tmp_path)
    assert found is not None
    store.discard(tmp_path)
    assert store.save(tmp_path, found[0], STAMP)
    assert kept(tmp_path) == ([1, 2, 3], STAMP)


def test_nothing_kept_is_nothing_to_optimize(tmp_path: Path) -> None:
    assert store.optimize(tmp_path / "never there") is None


OPTIMIZER = """
import sys, numpy as np
from dataclasses import replace
from pathlib import Path
from w2w_registry.index import store
folder = Path(sys.argv[1])
for seq in range(2, 42):
    index, stamp = store.load(folder)
    index.add(np.arange(4 * seq, 4 * seq + 4), np.full((4, 16), seq / 200, np.float32))
    index.remove([4 * seq - 4])
    assert store.save(folder, index, replace(stamp, seq=seq))
    if seq % 3 == 0:
        assert store.optimize(folder) is not None
"""


def test_readers_go_on_beside_a_writer_that_optimizes(tmp_path: Path) -> None:
    """What a reader opens is the state of one change, however often it is asked, also after it was written as one."""
    index = ExactIndex(16)
    index.add(np.arange(4, 8), np.full((4, 16), 1 / 200, np.float32))
    assert store.save(tmp_path, index, replace(STAMP, seq=1))
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(OPTIMIZER), str(tmp_path)])
    opened: dict[int, tuple[ExactIndex, list[int]]] = {}
    try:
        while writer.poll() is None:
            found = store.load(tmp_path)
            assert found is not None
            reader, stamp = found
            assert isinstance(reader, ExactIndex)
            there = [i for i in range(4, 4 * stamp.seq + 4) if i % 4 or i == 4 * stamp.seq]
            opened[stamp.seq] = (reader, there)
            for one, rows in opened.values():
                ids, _ = one.search(np.full((1, 16), 0.25, np.float32), len(rows) + 5)
                assert sorted(ids[0].tolist()) == rows
    finally:
        code = writer.wait()
    assert code == 0
    assert len(opened) > 2
    last = store.load(tmp_path)
    assert last is not None
    assert last[0].size == 3 * 40 + 3 + 1
