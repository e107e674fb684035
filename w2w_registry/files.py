"""The one way an input file is opened: without waiting, only when it is a regular file, read up to a limit.

A path may name anything: a pipe that waits for a writer for ever, a device, a socket, a sparse file of any length.
Standard library only.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from w2w_registry.errors import BadFile

TEXT_LIMIT = 64 * 2**20
"""Bytes a settings, label, evidence or document file may have."""
PICTURE_LIMIT = 256 * 2**20
_SETTLED = 3.0  # seconds: more than the coarsest of clocks that file systems have


@contextmanager
def opened(
    path: str | Path, kind: type[BadFile] = BadFile, *, limit: int | None = None
) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, opened for reading, and its size in bytes.

    Args:
        kind: the error to raise; it gets ``path`` and ``reason``.
        limit: the most bytes it may have.

    Raises:
        BadFile (or ``kind``): not there, no permission, no regular file, larger than ``limit``.
    """
    try:
        # O_NONBLOCK: opening a pipe then does not wait for its writer. It changes nothing for a regular file.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise kind(path=str(path), reason=why(error)) from None
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        os.close(descriptor)
        folder = stat.S_ISDIR(info.st_mode)
        raise kind(path=str(path), reason="a folder, not a file" if folder else "not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        if limit is not None and info.st_size > limit:
            raise kind(path=str(path), reason=f"larger than {limit} bytes")
        yield stream, info.st_size


def read_bytes(path: str | Path, kind: type[BadFile] = BadFile, *, limit: int = TEXT_LIMIT) -> bytes:
    """The content of a regular file of at most ``limit`` bytes. Raises what :func:`opened` raises."""
    with opened(path, kind, limit=limit) as (stream, size):
        try:
            data = stream.read(size + 1)
            if len(data) > size:  # it grew meanwhile
                data += stream.read(limit + 1 - len(data))
        except OSError as error:
            raise kind(path=str(path), reason=why(error)) from None
    if len(data) > limit:
        raise kind(path=str(path), reason=f"larger than {limit} bytes")
    return data


def read_text(path: str | Path, kind: type[BadFile] = BadFile, *, limit: int = TEXT_LIMIT) -> str:
    """As :func:`read_bytes`, decoded as UTF-8, or as UTF-16 where a byte order mark says so; the mark is dropped."""
    data = read_bytes(path, kind, limit=limit)
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        raise kind(path=str(path), reason="not a text file in UTF-8") from None


def check_file(path: str | Path, kind: type[BadFile] = BadFile, *, limit: int | None = None) -> None:
    """Before a library opens a file itself: that it is one. Raises what :func:`opened` raises."""
    with opened(path, kind, limit=limit):
        pass


def sha256_file(path: str | Path, kind: type[BadFile] = BadFile, *, limit: int | None = None) -> str:
    """SHA-256 (hex) of a regular file, read in pieces. Raises what :func:`opened` raises."""
    digest = hashlib.sha256()
    with opened(path, kind, limit=limit) as (stream, _):
        try:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        except OSError as error:
            raise kind(path=str(path), reason=why(error)) from None
    return digest.hexdigest()


_ADDRESS = re.compile(r"(?:https?|s3|gs|gcs|az|abfss?|hf|oci|ftp|file|civitai):/{1,3}\w", re.IGNORECASE)


def why(error: Exception) -> str:
    """One plain phrase for a failed file operation."""
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT and isinstance(error.filename, (str, os.PathLike)):
            name = os.fspath(error.filename)
            if os.path.islink(name):
                return "a link to what is not there"
            if _ADDRESS.match(name):
                return "an address, where a file or folder of this machine is expected: download it first"
        known = {
            errno.ENOENT: "no such file or folder",
            errno.ENOTDIR: "no such file or folder",
            errno.ELOOP: "its symbolic links form a loop",
            errno.EACCES: "no permission to read it",
            errno.EPERM: "no permission to read it",
            errno.ENXIO: "not a regular file",
            errno.ENAMETOOLONG: "its name is too long for the file system",
        }
        return known.get(error.errno or 0, error.strerror or str(error))
    return str(error)


def first_there(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of ``names`` that is a file in ``folder``; None where none is."""
    return next(those_there(folder, names), None)


def those_there(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Those of ``names`` that are files in ``folder``, in their order.

    A folder that has not changed since it was last asked about is not listed anew: each of thousands of LoRAs beside
    one another asks for dozens of names that may lie beside it.
    """
    there = None
    with suppress(OSError, ValueError):
        info = os.stat(folder)
        if time.time() - info.st_mtime > _SETTLED:  # else what comes within the clock's next tick would be overlooked
            there = _listed(str(folder), info.st_dev, info.st_ino, info.st_mtime_ns)
    for name in names:
        if (there is None or name in there or not name.isascii()) and os.path.isfile(path := folder / name):
            yield path


@lru_cache(maxsize=2)
def _listed(folder: str, *_version: int) -> frozenset[str] | None:
    """The names in a folder; None where they may be read but not listed, or found by other spellings of them."""
    try:
        names = frozenset(os.listdir(folder))
    except OSError:
        return None
    some = next((name for name in names if name.swapcase() != name), None)
    indifferent = some is not None and some.swapcase() not in names and Path(folder, some.swapcase()).exists()
    return None if indifferent else names
