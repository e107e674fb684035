"""Every input file is opened without waiting, only when it is a regular file, and read up to a limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_registry.errors import BadFile, RegistryError
from w2w_registry.files import opened, read_bytes, read_text
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
    for bad in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(BadFile):
            read_bytes(bad)
    with pytest.raises(BadFile, match="larger"):
        read_bytes(path, limit=3)
