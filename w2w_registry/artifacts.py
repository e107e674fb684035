"""Content-addressed store of opaque bytes (LoRA files, space arrays, previews), written atomically.

An artifact's name is the SHA-256 of its content, so writing twice is writing once and a reader can
always check what it got. fsspec gives the same store on a local folder or on object storage.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2w_registry.errors import IntegrityError, NotFound, SettingError, StorageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


_CHUNK = 1 << 22


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
    """``put`` bytes or a file, ``get`` them back checked, ``remove`` them for good."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = Path(url.removeprefix("file://")) if "://" not in url or url.startswith("file://") else None
        self._fs: AbstractFileSystem | None = None
        if self._local is None:
            self._fs, self._root = _file_system(url)

    def path(self, digest: str) -> Path | None:
        """Local path of an artifact, or None when the store is not a local folder."""
        return None if self._local is None else self._local / digest[:2] / digest

    def exists(self, digest: str) -> bool:
        local = self.path(digest)
        return local.exists() if local is not None else bool(self._remote().exists(self._key(digest)))

    def put(self, data: bytes) -> str:
        """Store ``data``; returns its digest. Raises StorageError when the medium fails."""
        digest = hashlib.sha256(data).hexdigest()
        if self.exists(digest) and self._renewed(digest):
            return digest
        try:
            local = self.path(digest)
            if local is not None:
                write_atomic(local, data)
            else:
                fs = self._remote()
                key, temporary = self._key(digest), self._key(f"tmp-{uuid.uuid4().hex}")
                fs.makedirs(key.rsplit("/", 1)[0], exist_ok=True)
                fs.pipe_file(temporary, data)
                fs.mv(temporary, key)
        except OSError as error:
            raise StorageError(path=self._url, reason=error.strerror or str(error)) from error
        return digest

    def put_file(self, path: str | os.PathLike[str]) -> str:
        """Store the content of a file, which is copied in pieces; returns its digest."""
        digest = sha256_file(path)
        local = self.path(digest)
        if local is None:
            return self.put(Path(path).read_bytes())
        if local.exists():
            self._renewed(digest)
        else:
            try:
                with open(path, "rb") as source:
                    write_atomic(local, iter(lambda: source.read(_CHUNK), b""))
            except OSError as error:
                raise StorageError(path=self._url, reason=error.strerror or str(error)) from error
        return digest

    def get(self, digest: str) -> bytes:
        """The content, checked against its name.

        Raises:
            NotFound: no such artifact. IntegrityError: the bytes are not the ones that were stored.
        """
        local = self.path(digest)
        try:
            data = local.read_bytes() if local is not None else self._remote().cat_file(self._key(digest))
        except FileNotFoundError:
            raise NotFound(what="artifact", name=digest) from None
        except OSError as error:
            raise StorageError(path=self._url, reason=error.strerror or str(error)) from error
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
            else:
                self._remote().rm_file(self._key(digest))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(path=self._url, reason=error.strerror or str(error)) from error
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
            raise StorageError(path=self._url, reason=error.strerror or str(error)) from error

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
        raise StorageError(path=url, reason=error.strerror or str(error)) from error


def write_atomic(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write ``data`` (whole or in pieces) so that a crash leaves the old file, the new one or none, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:64]}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
