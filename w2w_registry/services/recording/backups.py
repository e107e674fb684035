"""``backup`` and ``restore``: a registry in one file, and out of it again.

A backup is a tar: ``backup.json`` (what is in it, with SHA-256 of each file), ``catalog.db`` (a consistent copy made
while others may write), ``artifacts/``, and what lies in the home folder: ``registry.toml``, ``keys/``, ``guesses/``…
The index and temporary files are not in it: they are made again. The catalog is copied first and files are only added,
so that whatever it refers to is there when the files are copied.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import io
import json
import os
import re
import tarfile
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from w2w_registry.artifacts import temporary_folder, write_atomic
from w2w_registry.catalog.artifact_refs import referred
from w2w_registry.catalog.clock import begin_watch
from w2w_registry.catalog.transfer import Copied, copy_catalog
from w2w_registry.errors import BadFile, Conflict, IntegrityError, StorageError, UsageError
from w2w_registry.files import check_file, why
from w2w_registry.records import Result, iso, now
from w2w_registry.services.recording.configuring import edited
from w2w_registry.services.recording.outputs import check_free
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.settings import Settings
from w2w_registry.version import __version__

FORMAT: Final = "w2w-registry backup"
VERSION: Final = 1
LIST: Final = "backup.json"
CATALOG: Final = "catalog.db"
_FOLDERS: Final = ("keys", "guesses", "training")
_FILES: Final = ("registry.toml", "pipelines.json")
_PLACES: Final = ("artifacts", *_FOLDERS)
_PRIVATE: Final = "keys/"


@dataclass(frozen=True, eq=False)
class Backup(Result):
    """What was written, or would be: ``file``, how many ``files`` and ``bytes`` are in it; ``missing``: artifacts the
    catalog names that are gone; ``left_out``: settings that a restored registry.toml has no more, because they named
    another catalog or store than the ones restored beside it."""

    file: str
    files: int
    bytes: int
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def backup(registry: Registry, out: Path, *, force: bool = False, progress: Progress = no_progress) -> Backup:
    """Write everything into the tar ``out``; it is there whole or not at all, and readable by its owner only.

    Raises:
        OutputExists: see ``check_free``.
        StorageError: it cannot be written. UsageError: it would lie among what is backed up.
    """
    settings = registry.settings
    check_free(out, force=force)
    if out.resolve().is_relative_to(settings.home.resolve()):
        raise UsageError(reason=f"{out} is in the registry's own folder", hint="name a place outside it")
    part = _beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A home that is read-only (an archive, a NAS) can be backed up too.
        writable = os.access(settings.home, os.W_OK)
        with temporary_folder(settings.temporary_dir if writable else out.parent) as folder:
            copy = folder / CATALOG
            copy_catalog(settings.database_url, f"sqlite:///{copy}")
            with registry.catalog.read() as session:
                named = sorted(referred(session))
            missing = tuple(digest for digest in named if not registry.artifacts.exists(digest))
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            _hold(descriptor)
            with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as tar:
                digests: dict[str, str] = {}
                present = [digest for digest in named if digest not in missing]
                total = len(present) + 1
                digests[CATALOG] = _add_file(tar, CATALOG, copy)
                for name, path in _home_files(settings.home):
                    digests[name] = _add_file(tar, name, path)
                for done, digest in enumerate(present, start=1):
                    name = f"artifacts/{digest}"
                    with registry.artifacts.local(digest) as path:
                        digests[name] = _add_file(tar, name, path)
                    progress(done, total)
                _add_list(tar, digests)
                progress(total, total)
            os.replace(part, out)
    except OSError as error:
        raise StorageError(path=str(out), reason=why(error)) from error
    finally:
        part.unlink(missing_ok=True)
    return Backup(str(out), len(digests), out.stat().st_size, missing)


def _home_files(home: Path) -> Iterator[tuple[str, Path]]:
    for name in _FILES:
        if (home / name).is_file():
            yield name, home / name
    for folder in _FOLDERS:
        for path in sorted((home / folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(home)), path


def _add_file(tar: tarfile.TarFile, name: str, path: Path) -> str:
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = os.fstat(stream.fileno()).st_size, 0o600, 0
        stream.seek(0)
        tar.addfile(info, stream)
    return digest


def _add_list(tar: tarfile.TarFile, digests: dict[str, str]) -> None:
    """The list comes last: a tar without it was cut off."""
    body = {"format": FORMAT, "version": VERSION, "made": iso(now()), "software": __version__, "files": digests}
    data = (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()
    info = tarfile.TarInfo(LIST)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


def restore(settings: Settings, file: Path, *, perform: bool = True, progress: Progress = no_progress) -> Backup:
    """Make the home folder (and the SQLite catalog in it) out of a backup; every digest is checked first.

    Raises:
        Conflict: there is a registry already. BadFile: not a backup, or cut off. IntegrityError: a file in it is not
            what was backed up. UsageError: the database or the files of these settings lie elsewhere. StorageError.
    """
    home = settings.home
    if home.exists() and any(home.iterdir()):
        raise Conflict(what="folder", name=str(home), reason="is not empty; name another with [[home]]")
    if settings.database_url != f"sqlite:///{home}/catalog.db" or settings.artifacts_url != str(home / "artifacts"):
        raise UsageError(
            reason="a backup is restored into a home folder with a catalog of its own",
            hint="then move the catalog with copy-to",
        )
    count, size = _check(file)
    if not perform:
        return Backup(str(file), count, size)
    part = _beside(home)
    try:
        part.mkdir(parents=True)
        with _held(part), _opened(file) as tar:
            for done, member in enumerate(tar, start=1):
                if member.name != LIST:
                    _extract(tar, member, part)
                progress(done, count)
        (part / "artifacts").mkdir(parents=True, exist_ok=True)
        left_out = _come_home(part / "registry.toml")
        begin_watch(f"sqlite:///{part}/{CATALOG}")
        if home.exists():
            home.rmdir()
        os.replace(part, home)
    except OSError as error:
        raise StorageError(path=str(home), reason=why(error)) from error
    finally:
        _remove(part)
    return Backup(str(file), count, size, left_out=left_out)


_ELSEWHERE = (("database", "url"), ("artifacts", "url"), ("index", "url"), ("index", "uri"), ("index", "database"))
"""What of registry.toml says where things lie."""


def _come_home(path: Path) -> tuple[str, ...]:
    """Take out of a registry.toml where the catalog and the files are, which are beside it now, and a server's index,
    which is made again. Otherwise every command in the restored folder would read, change and erase those of the
    registry that was backed up."""
    if not path.exists():
        return ()
    text = path.read_text("utf-8")
    found = _addresses(text)
    for table, key in found:
        text = edited(text, table, key, None)
        if table == "index":
            text = edited(text, table, "kind", None)  # a kind that needs an address
    for table in {table for table, _ in _addresses(text)}:  # written before every table: index.url = …, index = {…}
        text = re.sub(rf"""(?m)^[ \t]*["']?{table}["']?[ \t]*[.=].*\n?""", "", text)
    if _addresses(text):
        raise BadFile(
            path=path.name,
            reason="the backup's says where the catalog, files or index lie in a way that cannot be taken out",
            hint="write it as [database], [artifacts] and [index] tables where the registry is, and back it up again",
        )
    if found:
        write_atomic(path, text.encode())
    return tuple(f"{table}.{key}" for table, key in found)


def _addresses(text: str) -> list[tuple[str, str]]:
    """What of ``_ELSEWHERE`` a registry.toml says, however it is written; nothing where no command could read it."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return []
    return [(table, key) for table, key in _ELSEWHERE if key in (data.get(table) or {})]


def _check(file: Path) -> tuple[int, int]:
    """How many files a backup holds and how large it is, once all of it is as it was written."""
    found: dict[str, str] = {}
    listed: dict[str, Any] | None = None
    try:
        with _opened(file) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isreg() else None
                if stream is None or not _safe(member.name):
                    raise BadFile(
                        path=str(file), reason=f"holds {member.name[:80]!r}, which does not belong in a backup"
                    )
                if member.name == LIST:
                    listed = _read_list(file, stream)
                else:
                    found[member.name] = _digest(stream)
    except tarfile.TarError as error:
        raise BadFile(path=str(file), reason=f"cut off, or damaged: {error}") from None
    if listed is None:
        raise BadFile(path=str(file), reason="not a backup of a registry, or cut off: its list is missing")
    for name, digest in listed.items():
        if found.get(name) != digest:
            raise IntegrityError(what="file", name=name, expected=digest, found=found.get(name, "nothing"))
    if set(found) != set(listed) or CATALOG not in found:
        raise BadFile(path=str(file), reason="holds files that its list does not name, or no catalog")
    return len(found), file.stat().st_size


def _digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(2**20):
        digest.update(piece)
    return digest.hexdigest()


def _read_list(file: Path, stream: IO[bytes]) -> dict[str, Any]:
    try:
        body = json.loads(stream.read(2**28))
        if body["format"] != FORMAT or body["version"] != VERSION:
            raise ValueError
        return dict(body["files"])
    except (ValueError, KeyError, TypeError):
        raise BadFile(path=str(file), reason="not a backup this release can read") from None


def _safe(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name in (LIST, CATALOG, *_FILES) or (len(parts) > 1 and parts[0] in _PLACES and ".." not in parts)


def _opened(file: Path) -> tarfile.TarFile:
    check_file(file)
    try:
        return tarfile.open(file, mode="r:")
    except (OSError, tarfile.TarError) as error:
        reason = why(error) if isinstance(error, OSError) else "not a tar file"
        raise BadFile(path=str(file), reason=reason) from None


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """One file to its place; artifacts as the store keeps them."""
    name = PurePosixPath(member.name)
    if name.parts[0] == "artifacts":
        name = PurePosixPath("artifacts", name.name[:2], name.name)
    target = folder.joinpath(*name.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    stream = tar.extractfile(member)
    assert stream is not None
    mode = 0o600 if str(name).startswith(_PRIVATE) else 0o666
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
        while piece := stream.read(2**20):
            out.write(piece)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    """A place to make ``target`` in. What a killed process left in such a place, keys and all, goes now: nobody holds
    it any more."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}"):
        with suppress(OSError), _held(left):
            _remove(left)
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a file or folder until the block ends; BlockingIOError where another process does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _hold(descriptor)
        yield
    finally:
        os.close(descriptor)


def _hold(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def copy_to(registry: Registry, url: str) -> Copied:
    """Copy the catalog into the database ``url``: see ``catalog.transfer.copy_catalog``."""
    done = copy_catalog(registry.settings.database_url, url)
    begin_watch(url)
    return done
