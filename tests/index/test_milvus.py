from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.index.conftest import need
from tests.index.oracle import Oracle, assert_same, unit
from w2w_registry.errors import Busy, SettingError, StorageError
from w2w_registry.index import milvus as module
from w2w_registry.index.factory import engine_for
from w2w_registry.index.milvus import MilvusEngine, MilvusIndex, collection_name
from w2w_registry.index.milvus_server import MilvusTarget
from w2w_registry.index.protocol import Stamp

SCRIPT = """
import sys
import numpy as np
from w2w_registry.index.milvus import MilvusIndex
from w2w_registry.index.milvus_server import MilvusTarget
from w2w_registry.index.protocol import Stamp
target = MilvusTarget(sys.argv[1])
if sys.argv[2] == "write":
    index = MilvusIndex.create(target, "kept", 4)
    index.add([1, 2], np.eye(4)[:2])
    index.keep(Stamp("s", "m", 3, "", 0))
else:
    index, stamp = MilvusIndex.attach(target, "kept")
    print(stamp.seq, index.ids().tolist(), index.search(np.eye(4)[1:2], 1)[0].tolist())
"""


def test_rows_and_stamp_outlive_the_process(tmp_path: Path) -> None:
    need("milvus")
    path = str(tmp_path / "a.db")
    subprocess.run([sys.executable, "-c", SCRIPT, path, "write"], check=True)
    done = subprocess.run([sys.executable, "-c", SCRIPT, path, "read"], check=True, capture_output=True, text=True)
    assert done.stdout == "3 [1, 2] [[2]]\n"


def test_a_second_process_is_told_that_the_file_is_taken(milvus: MilvusTarget) -> None:
    MilvusIndex.create(milvus, "taken", 4)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, milvus.uri, "write"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{Busy.__module__}.Busy: Milvus Lite file ")
    assert "milvus_lite" not in done.stderr


def test_a_rebuild_that_was_cut_short_is_not_trusted(milvus: MilvusTarget) -> None:
    index = MilvusIndex.create(milvus, "cut", 4)
    index.add([1], np.eye(4)[:1])
    index.keep(Stamp("s", "m", 3, "", 0))
    assert MilvusIndex.attach(milvus, "cut") is not None
    MilvusIndex.create(milvus, "cut", 4).add([1], np.eye(4)[:1])
    assert MilvusIndex.attach(milvus, "cut") is None


def test_more_ties_and_more_rows_than_milvus_returns_at_once(
    milvus: MilvusTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_HITS", 40)
    index, oracle = MilvusIndex.create(milvus, "ties", 8), Oracle()
    vectors = unit(np.random.default_rng(0), 120, 8)
    vectors[10:90] = vectors[0]
    index.add(np.arange(120), vectors)
    oracle.add(list(range(120)), vectors)
    for limit in (1, 30, 100):
        assert_same(index.search(vectors[[0, 95]], limit), oracle.search(vectors[[0, 95]], limit))


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    need("milvus")
    with pytest.raises(SettingError):
        MilvusIndex.create(MilvusTarget(str(tmp_path / "not a db")), "c", 4)
    (tmp_path / "file.db").write_text("something else")
    with pytest.raises(StorageError):
        MilvusIndex.create(MilvusTarget(str(tmp_path / "file.db")), "c", 4)
    assert MilvusIndex.attach(MilvusTarget(str(tmp_path / "absent.db")), "c") is None


def test_secrets_are_not_shown() -> None:
    target = MilvusTarget("https://user:secret@host:19530", token="secret")
    assert "secret" not in repr(target) + target.shown
    assert target.shown == "https://host:19530"
    assert not target.is_local


def test_where_milvus_is_comes_from_the_settings() -> None:
    default = Path("/home/registry/index/milvus.db")
    assert MilvusTarget.from_options({}, default, {}) == MilvusTarget(str(default))
    options = {"kind": "milvus", "uri": "http://milvus:19530", "database": "team"}
    found = MilvusTarget.from_options(options, default, {"W2W_MILVUS_TOKEN": "secret"})
    assert found == MilvusTarget("http://milvus:19530", "secret", "team")
    with pytest.raises(SettingError):
        MilvusTarget.from_options({"uri": 19530}, default, {})


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("milvus+lite:///data/vectors.db", MilvusTarget("/data/vectors.db")),
        ("milvus://vectors", MilvusTarget("http://vectors:19530", "secret")),
        ("milvus://10.0.0.7:29530/team", MilvusTarget("http://10.0.0.7:29530", "secret", "team")),
        ("milvus+https://vectors:443", MilvusTarget("https://vectors:443", "secret")),
    ],
)
def test_a_url_says_where_milvus_is(url: str, target: MilvusTarget, tmp_path: Path) -> None:
    assert MilvusTarget.from_options({"url": url}, Path("unused"), {"W2W_MILVUS_TOKEN": "secret"}) == target
    engine = engine_for({"url": url}, tmp_path, "s", "m", size=10)
    assert isinstance(engine, MilvusEngine)
    with pytest.raises(SettingError, match="has no URL"):
        engine_for({"url": url, "kind": "faiss"}, tmp_path, "s", "m", size=10)


@pytest.mark.parametrize(
    "url",
    ["milvus+lite://data/vectors.db", "milvus+lite:///data/vectors", "http://vectors", "milvus://", "milvus://h:x"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SettingError):
        MilvusTarget.from_url(url)


def test_a_password_in_a_url_is_refused_unshown() -> None:
    with pytest.raises(SettingError) as caught:
        MilvusTarget.from_url("milvus://user:hunter2@vectors")
    assert "hunter2" not in str(caught.value)
    assert "W2W_MILVUS_TOKEN" in str(caught.value)


def test_a_collection_name_holds_what_milvus_allows() -> None:
    assert collection_name(Path("/x/0a1b-2c3d-milvus")) == "w2w_0a1b_2c3d_milvus"
