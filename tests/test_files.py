"""Every input file is opened without waiting, only when it is a regular file, and read up to a limit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_registry.errors import BadFile, RegistryError
from w2w_registry.files import first_there, opened, read_bytes, read_text
from w2w_registry.lora import read_adapter
from w2w_registry.services.audit.log import read_notes
from w2w_registry.services.recording.labels import read_labels_csv
from w2w_registry.settings import read_settings_file

READERS: list[Callable[[Path], object]] = [
    read_bytes,
    read_adapter,
    read_labels_csv,
    read_settings_file,
    lambda path: read_notes([path]),
]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_nobody_writes_to_is_refused_at_once(tmp_path: Path, read: Callable[[Path], object]) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(RegistryError, match="regular file"):
        read(pipe)


@pytest.mark.parametrize("read", READERS)
def test_a_sparse_file_takes_no_memory(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as stream:
        stream.truncate(20 * 2**30)
    with pytest.raises(RegistryError):
        read(path)


def test_what_is_there_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9fe")
    assert read_text(path) == "grüße"
    with opened(path) as (stream, size):
        assert len(stream.read()) == size == 10
    for encoding in ("utf-16", "utf-16-be"):
        path.write_bytes((b"\xfe\xff" if encoding.endswith("be") else b"") + "grüße".encode(encoding))
        assert read_text(path) == "grüße"
    for bad in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(BadFile):
            read_bytes(bad)
    with pytest.raises(BadFile, match="larger"):
        read_bytes(path, limit=3)


@pytest.mark.parametrize("age", [0, 60])
def test_what_comes_to_a_folder_later_is_found(tmp_path: Path, age: float) -> None:
    def aged() -> None:
        os.utime(tmp_path, (time.time() - age, time.time() - age))

    (tmp_path / "x.bin").touch()
    aged()
    assert first_there(tmp_path, ("x.png", "x.jpg")) is None
    (tmp_path / "x.jpg").touch()
    if age:
        os.utime(tmp_path, (time.time() - age / 2, time.time() - age / 2))
    assert first_there(tmp_path, ("x.png", "x.jpg")) == tmp_path / "x.jpg"
    (tmp_path / "x.png").mkdir()
    if age:
        os.utime(tmp_path, (time.time() - age / 3, time.time() - age / 3))
    assert first_there(tmp_path, ("x.png", "x.jpg")) == tmp_path / "x.jpg"  # a folder is no file
    assert first_there(tmp_path / "nowhere", ("x.png",)) is None


def test_a_folder_that_cannot_be_listed_is_asked_name_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").touch()
    os.utime(tmp_path, (1, 1))

    def denied(_: object) -> list[str]:
        raise PermissionError

    monkeypatch.setattr(os, "listdir", denied)
    assert first_there(tmp_path, ("x.jpg", "x.png")) == tmp_path / "x.png"


@pytest.mark.parametrize(
    "address", ["s3://bucket/x", "https://huggingface.co/a/b", "hf://a/b", "gs://bucket/x.safetensors"]
)
def test_an_address_is_no_file_and_a_link_to_nothing_is_said(tmp_path: Path, address: str) -> None:
    with pytest.raises(BadFile, match="an address"):
        read_bytes(Path(address))
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    with pytest.raises(BadFile, match="a link to what is not there"):
        read_bytes(tmp_path / "x")
