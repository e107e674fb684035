"""The content-addressed store, on a folder and through fsspec."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest

from w2w_registry.artifacts import ArtifactStore, sha256_file, write_atomic
from w2w_registry.errors import IntegrityError, NotFound, StorageError


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


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
