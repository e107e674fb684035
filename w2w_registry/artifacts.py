"""Content-addressed store of opaque bytes (LoRA files, space arrays, previews), written atomically.

An artifact's name is the SHA-256 of its content, so writing twice is writing once and a reader can
always check what it got. fsspec gives the same store on a local folder or on object storage.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2w_registry.errors import IntegrityError, NotFound, SettingError, storage_error, storing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


_CHUNK = 1 << 22
TEMPORARY = "w2w-tmp-"


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file, read in chunks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Facts:
    """``size`` in bytes, ``age`` in seconds since it was written, or written again."""

    size: int
    age: float


class ArtifactStore:
    """``put`` bytes or a file, ``get`` them back checked or read them as a ``local`` file, ``remove`` them for good.

    Args:
        url: a folder, or anything fsspec opens.
        scratch: where copies of remote artifacts lie while they are read; the system's own place when None.
    """

    def __init__(self, url: str, scratch: Path | None = None) -> None:
        self._url, self.scratch = url, scratch
        self._local = Path(url.removeprefix("file://")) if "://" not in url or url.startswith("file://") else None
        self._fs: AbstractFileSystem | None = None
        if self._local is None:
            self._fs, self._root = _file_system(url)

    def path(self, digest: str) -> Path | None:
        """Local path of an artifact, or None when the store is not a local folder."""
        return None if self._local is None else self._local / digest[:2] / digest

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder here."""
        return self._local is not None

    def exists(self, digest: str) -> bool:
        local = self.path(digest)
        return local.is_file() if local is not None else bool(self._remote().exists(self._key(digest)))

    def put(self, data: bytes | memoryview) -> str:
        """Store ``data``, on disk for good once this returns; returns its digest. A damaged artifact of that name is
        written anew.

        Raises:
            StorageError: the medium failed.
        """
        digest = hashlib.sha256(data).hexdigest()
        self._put(digest, len(data), lambda: [data])
        return digest

    def put_file(self, path: str | os.PathLike[str]) -> str:
        """As ``put``, for the content of a file, which is read in pieces."""
        digest = sha256_file(path)
        self._put(digest, Path(path).stat().st_size, lambda: pieces(path))
        return digest

    def _put(self, digest: str, size: int, content: Callable[[], Iterable[bytes | memoryview]]) -> None:
        with storing(self._url):
            if self._is_whole(digest, size) and self._renewed(digest):
                return
            local = self.path(digest)
            if local is not None:
                write_atomic(local, content())
                return
            fs, key = self._remote(), self._key(digest)
            # An object store shows an object once it is whole; elsewhere a name is given to a whole file.
            target = key if _is_object_store(fs) else f"{key}.{uuid.uuid4().hex[:8]}"
            fs.makedirs(key.rsplit("/", 1)[0], exist_ok=True)
            with fs.open(target, "wb") as stream:
                for piece in content():
                    stream.write(piece)
            if target != key:
                fs.mv(target, key)

    def check(self, digest: str) -> bool:
        """Whether the artifact is there and whole, having read all of it.

        Raises:
            StorageError: the medium failed.
        """
        try:
            with self.local(digest) as path:
                return sha256_file(path) == digest
        except (NotFound, IntegrityError):
            return False
        except OSError as error:
            raise storage_error(self._url, error) from error

    @contextmanager
    def local(self, digest: str) -> Iterator[Path]:
        """The artifact as a file: the one in the store, or a copy that is there as long as this lasts.

        Only a copy is held against its name; a file in the store is left to whoever reads it to check.

        Raises:
            NotFound: no such artifact. IntegrityError: a copy is not what was stored. StorageError.
        """
        path = self.path(digest)
        if path is not None:
            if not path.is_file():  # nor is a pipe one: reading it would not end
                raise NotFound(what="artifact", name=digest)
            yield path
            return
        with temporary_folder(self.scratch) as folder:
            copy = folder / digest
            try:
                self._remote().get_file(self._key(digest), str(copy))
            except FileNotFoundError:
                raise NotFound(what="artifact", name=digest) from None
            except OSError as error:
                raise storage_error(self._url, error) from error
            if (found := sha256_file(copy)) != digest:
                raise IntegrityError(what="artifact", name=digest, expected=digest, found=found)
            yield copy

    def get(self, digest: str) -> bytes:
        """The content, checked against its name.

        Raises:
            NotFound: no such artifact. IntegrityError: the bytes are not the ones that were stored.
        """
        local = self.path(digest)
        try:
            if local is not None and not local.is_file():
                raise NotFound(what="artifact", name=digest)
            data = local.read_bytes() if local is not None else self._remote().cat_file(self._key(digest))
        except FileNotFoundError:
            raise NotFound(what="artifact", name=digest) from None
        except OSError as error:
            raise storage_error(self._url, error) from error
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise IntegrityError(what="artifact", name=digest, expected=digest, found=found)
        return bytes(data)

    def remove(self, digest: str) -> bool:
        """Delete an artifact; False when it was not there."""
        local = self.path(digest)
        try:
            if local is not None:
                local.unlink()
            elif not self.exists(digest):  # object stores delete what is not there without a word
                return False
            else:
                self._remote().rm_file(self._key(digest))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(self._url, error) from error
        return True

    def facts(self, digest: str) -> Facts | None:
        """Size and age of an artifact; None when it is not there. An unknown age is none at all: it is new.

        Raises:
            StorageError.
        """
        local = self.path(digest)
        try:
            if local is not None:
                found = local.stat()
                return Facts(found.st_size, max(0.0, time.time() - found.st_mtime))
            key = self._key(digest)
            size = int(self._remote().size(key) or 0)
            try:
                written = self._remote().modified(key).timestamp()
            except (NotImplementedError, AttributeError):
                return Facts(size, 0.0)
            return Facts(size, max(0.0, time.time() - written))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(self._url, error) from error

    def digests(self) -> Iterator[str]:
        """Every artifact in the store."""
        if self._local is not None:
            for folder in sorted(self._local.glob("??")):
                yield from sorted(p.name for p in folder.iterdir() if len(p.name) == 64)
        else:
            for key in self._remote().find(self._root):
                name = str(key).rsplit("/", 1)[-1]
                if len(name) == 64:
                    yield name

    def _is_whole(self, digest: str, size: int) -> bool:
        """Whether the artifact is there: all of it is read where that is near, its size asked where it is far."""
        local = self.path(digest)
        if local is None:
            facts = self.facts(digest)
            return facts is not None and facts.size == size
        return local.is_file() and local.stat().st_size == size and sha256_file(local) == digest

    def _renewed(self, digest: str) -> bool:
        """Let a file that is stored again be as new, since whoever stores it has not recorded it yet; False when that
        takes writing it again (object stores cannot touch what is there)."""
        local = self.path(digest)
        try:
            if local is not None:
                os.utime(local)
            else:
                self._remote().touch(self._key(digest), truncate=False)
        except (OSError, NotImplementedError, ValueError):
            return local is not None
        return True

    def _remote(self) -> AbstractFileSystem:
        assert self._fs is not None
        return self._fs

    def _key(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name[:2]}/{name}"


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
        return fs, str(root)
    except ImportError as error:  # fsspec names the driver to install
        raise SettingError(setting="artifacts url", value=url, reason=f"{error} (pip install)") from None
    except ValueError as error:
        raise SettingError(setting="artifacts url", value=url, reason=str(error)) from None
    except OSError as error:
        raise storage_error(url, error) from error


def _is_object_store(fs: AbstractFileSystem) -> bool:
    names = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return bool(names & {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"})


def pieces(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The content of a file, a few megabytes at a time."""
    with open(path, "rb") as stream:
        while piece := stream.read(_CHUNK):
            yield piece


@contextmanager
def temporary_folder(under: Path | None) -> Iterator[Path]:
    """An empty folder that only this user may open, gone at the end; ``sweep`` removes it after a crash.

    Raises:
        StorageError: none can be made there.
    """
    with storing(under or tempfile.gettempdir()):
        if under is not None:
            under.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=under)
    with folder as name:
        yield Path(name)


def folder_until_exit(under: Path) -> Path:
    """As :func:`temporary_folder`, gone when the process ends."""
    kept = ExitStack()
    atexit.register(kept.close)
    return kept.enter_context(temporary_folder(under))


def sweep(under: Path, *, older_than: float = 86_400.0) -> int:
    """Remove what crashed processes left of their temporary folders, those untouched for so many seconds; returns how
    many. What cannot be removed is left."""
    found = [path for path in under.glob(f"{TEMPORARY}*") if _age(path) > older_than]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return len(found)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _created(path: Path, mode: int) -> int:
    """Descriptor of a new file, in a folder that comes into being where it is missing."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


def write_atomic(path: Path, data: bytes | Iterable[bytes | memoryview], *, mode: int = 0o666) -> None:
    """Write ``data`` (whole or in pieces) so that a crash leaves the old file, the new one or none, never a part.
    ``mode``: who may read it (less the umask), from the first byte on; nobody who could not read the old file.

    Raises:
        StorageError: it cannot be written.
    """
    with suppress(OSError):
        mode &= stat.S_IMODE(path.stat().st_mode)
    temporary = path.with_name(f".{path.name[:64]}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    with storing(path):
        try:
            with open(_created(temporary, mode), "wb") as stream:
                stream.writelines([data] if isinstance(data, bytes) else data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the name may be lost though the content is safe
        finally:
            os.close(folder)
