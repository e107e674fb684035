"""Files of a folder that one process writes and many read: mapped and verified, forced to disk, one writer at a time.

The checksum is against accidents, not against someone who can write here: CRC-32 reads at about 4 GB/s where SHA-256
reads at 1.6 (measured), and every cold start pays it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadFile, IntegrityError
from w2w_registry.files import opened, read_bytes

LOCK = "LOCK"
EAGER_BYTES = 64 << 20  # larger row files are verified row by row as they are read
_LARGEST_LIST = 64 << 20  # bytes of what names the segments


@contextmanager
def lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """The folder's writer lock; False when it is taken and ``wait`` is not asked. A dead holder's lock is free."""
    # O_NONBLOCK: a pipe in its place fails, where opening it would wait for a reader.
    with open(os.open(folder / LOCK, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def read(path: Path) -> bytes | None:
    """What is there; None when it is not, or cannot be read."""
    try:
        return read_bytes(path, limit=_LARGEST_LIST)
    except BadFile:
        return None


@contextmanager
def _regular(path: Path) -> Iterator[IO[bytes]]:
    """A file, opened for reading. Raises OSError where it is none, cannot be opened, or is a pipe or a device."""
    try:
        with opened(path) as (stream, _):
            yield stream
    except BadFile as error:
        raise OSError(f"{path}: {error.fields['reason']}") from None


def write(path: Path, data: bytes) -> None:
    """A file of that content, forced to disk."""
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Force to disk which names the folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Length and CRC-32 of the files in ``folder``, which are forced to disk on the way."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        with _regular(path) as stream:
            os.fsync(stream.fileno())
        size = path.stat().st_size
        lazily = _lazily_read(path.name, size)
        files[path.name] = {"bytes": size, "crc32": None if lazily else zlib.crc32(mapped(path)[0].data)}
    return files


def _lazily_read(name: str, size: int) -> bool:
    """Rows of a large segment have checksums of their own, and so have the chunks of every kind of codes."""
    return name.endswith(".u8") or (name in ("vectors.f32", "vectors.i8") and size > EAGER_BYTES)


def verified(path: Path, described: dict[str, Any]) -> tuple[NDArray[np.uint8], mmap.mmap | None]:
    """The file's bytes, mapped and verified. Raises IntegrityError or OSError when they are not as described."""
    data, pages = mapped(path)
    if len(data) != described["bytes"]:
        raise IntegrityError(what="index file", name=path.name, expected=described["bytes"], found=len(data))
    if described["crc32"] is not None and (found := zlib.crc32(data.data)) != described["crc32"]:
        raise IntegrityError(what="index file", name=path.name, expected=described["crc32"], found=found)
    return data, pages


def mapped(path: Path) -> tuple[NDArray[np.uint8], mmap.mmap | None]:
    """The file's bytes in place, and the mapping, None for an empty file. Raises OSError."""
    with _regular(path) as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            return np.empty(0, np.uint8), None
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, np.uint8), pages
