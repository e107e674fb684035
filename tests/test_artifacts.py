"""The content-addressed store, on a folder and through fsspec."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from w2w_registry.artifacts import ArtifactStore, sha256_file, sweep, temporary_folder, write_atomic
from w2w_registry.errors import IntegrityError, NotFound, StorageError


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket on a real S3 server on this machine."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import fsspec
    import s3fs

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3", skip_instance_cache=True).makedirs(
            "w2w", exist_ok=True
        )  # moto forgets nothing in a process
        s3fs.S3FileSystem.clear_instance_cache()  # one that was opened before asks where the last server was
        yield "s3://w2w"
    server.stop()


@pytest.fixture(params=["folder", "memory", "mounted", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """``mounted``: a file system with real folders, seen through fsspec."""
    if request.param == "s3":
        return ArtifactStore(f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}", tmp_path / "tmp")
    url = {
        "folder": str(tmp_path / "store"),
        "memory": f"memory://{uuid.uuid4().hex}",
        "mounted": f"local://{tmp_path / 'store'}",
    }[request.param]
    return ArtifactStore(url, tmp_path / "tmp")


def spoil(store: ArtifactStore, digest: str, data: bytes) -> None:
    path = store.path(digest)
    if path is not None:
        path.write_bytes(data)
    else:
        store._remote().pipe_file(store._key(digest), data)


def test_round_trip(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put(b"content")
    assert digest == hashlib.sha256(b"content").hexdigest()
    assert store.put(b"content") == digest
    assert store.get(digest) == b"content"
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10_000_000)
    assert store.put_file(file) == sha256_file(file)
    assert store.get(sha256_file(file)) == file.read_bytes()
    assert sorted(store.digests()) == sorted([digest, sha256_file(file)])


def test_removal(store: ArtifactStore) -> None:
    digest = store.put(b"content")
    assert store.remove(digest) is True
    assert store.remove(digest) is False
    assert not store.exists(digest)
    with pytest.raises(NotFound):
        store.get(digest)


def test_damage_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    digest = store.put(b"content")
    path = store.path(digest)
    assert path is not None
    path.write_bytes(b"c0ntent")
    with pytest.raises(IntegrityError):
        store.get(digest)


def test_a_pipe_in_the_store_is_no_artifact(tmp_path: Path) -> None:
    """Reading one would wait for ever: it is not there, for whoever asks, and storing the content again says so."""
    store = ArtifactStore(str(tmp_path))
    digest = hashlib.sha256(b"x").hexdigest()
    (tmp_path / digest[:2]).mkdir()
    os.mkfifo(tmp_path / digest[:2] / digest)
    assert not store.exists(digest)
    for read in (store.get, lambda one: store.local(one).__enter__()):
        with pytest.raises(NotFound):
            read(digest)
    assert store.put(b"x") == digest
    assert store.get(digest) == b"x"


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        ArtifactStore(str(tmp_path / "file" / "store")).put(b"content")


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "target"
    write_atomic(target, b"old")

    def broken() -> object:
        yield b"new"
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        write_atomic(target, broken())  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_artifact_is_read_as_a_file_wherever_it_lies(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put(b"content")
    with store.local(digest) as path:
        assert path.read_bytes() == b"content"
        if store.path(digest) is None:
            assert path.parent.stat().st_mode & 0o777 == 0o700
            assert path.is_relative_to(tmp_path / "tmp")
    assert path.exists() == (store.path(digest) is not None)
    with pytest.raises(NotFound), store.local("0" * 64):
        pass


def test_storing_again_heals_a_damaged_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put(b"content")
    assert store.check(digest)
    spoil(store, digest, b"cut")
    assert not store.check(digest)
    assert store.put(b"content") == digest
    assert store.check(digest)
    spoil(store, digest, b"cu")
    (tmp_path / "file").write_bytes(b"content")
    assert store.put_file(tmp_path / "file") == digest
    assert store.check(digest)
    assert not store.check("0" * 64)
    assert list(store.digests()) == [digest]


def test_damage_of_one_byte_is_healed_where_reading_is_near(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    digest = store.put(b"content")
    spoil(store, digest, b"c0ntent")
    store.put(b"content")
    assert store.get(digest) == b"content"


def test_what_crashed_processes_left_is_swept(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "tmp") as young:
        old = tmp_path / "tmp" / "w2w-tmp-old"
        old.mkdir()
        (old / "person.safetensors").write_bytes(b"x")
        os.utime(old, (time.time() - 90_000,) * 2)
        (tmp_path / "tmp" / "not ours").mkdir()
        assert sweep(tmp_path / "tmp") == 1
        assert young.exists()
        assert not old.exists()
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["not ours"]
    assert sweep(tmp_path / "never there") == 0
