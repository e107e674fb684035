"""The on-disk cache: one folder per space, metric and kind, holding whole generations and a pointer to the current one.

    <folder>/CURRENT            name of the generation and the SHA-256 of its manifest
    <folder>/gen-<random>/      manifest.json (stamp, every file's length and SHA-256) and the kind's own files
    <folder>/LOCK               held by the one writer; readers take no lock

A generation is written aside, forced to disk, renamed into place and only then pointed at, so a crash at any instant
leaves the old one or the new one, and a reader sees a whole one. What does not check out is as good as absent:
``load`` answers None and the caller rebuilds from the catalog.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError, StorageError
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.protocol import Stamp, VectorIndex, Vectors
from w2w_registry.records import canonical_json

FORMAT = 1
POINTER, MANIFEST, LOCK = "CURRENT", "manifest.json", "LOCK"
EAGER_BYTES = 64 << 20  # larger row files are verified row by row as they are read
_READ_ATTEMPTS = 8
_SYNC_ROWS = 1024
Change = tuple[int, Vectors | None]


def folder_for(root: Path, space_digest: str, metric_digest: str, kind: str) -> Path:
    """Where the index of one space under one metric is kept, for one kind."""
    return root / f"{space_digest[:16]}-{metric_digest[:16]}-{kind}"


def load(folder: Path) -> tuple[VectorIndex, Stamp] | None:
    """The index kept in ``folder`` with its stamp, read in place; None when there is none that checks out.

    The caller compares the stamp with the catalog. Everything but the vectors of a large index (``EAGER_BYTES``) is
    verified here; those are verified as they are read, and ``search`` raises IntegrityError for a damaged row:
    ``discard`` the folder and rebuild.

    Raises:
        MissingExtra: the kind kept there needs a package that is not installed.
    """
    for _ in range(_READ_ATTEMPTS):
        pointer = _read(folder / POINTER)
        if pointer is None:
            return None
        found = _load_generation(folder, pointer)
        # A writer may have replaced and deleted the generation while it was being opened: look again.
        if found is not None or _read(folder / POINTER) == pointer:
            return found
    return None


def save(folder: Path, index: VectorIndex, stamp: Stamp) -> bool:
    """Make ``index`` the current generation, and delete the others.

    Returns False, with nothing written, when another process is saving here or has saved a later catalog state: the
    cache is then as good without this one.

    Raises:
        StorageError: the disk refused. IntegrityError: the index was read from damaged rows.
    """
    stamp = replace(stamp, kind=index.kind, size=index.size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder, wait=False) as held:
            if not held or _is_newer(folder, stamp):
                return False
            _collect(folder, keep=_current_name(folder))
            temporary = folder / f"tmp-{uuid.uuid4().hex}"
            temporary.mkdir()
            index.dump(temporary)
            manifest = _describe(temporary, stamp, index.dim)
            _write(temporary / MANIFEST, manifest)
            _sync_folder(temporary)
            generation = folder / temporary.name.replace("tmp-", "gen-")
            temporary.rename(generation)
            _sync_folder(folder)
            _point(folder, generation.name, manifest)
            _collect(folder, keep=generation.name)
    except OSError as error:
        raise StorageError(path=str(folder), reason=error.strerror or str(error)) from error
    return True


def discard(folder: Path) -> None:
    """Delete every generation, as erasure asks; waits for a writer to finish. What was never there is no error.

    Raises:
        StorageError: something could not be deleted.
    """
    if not folder.is_dir():
        return
    try:
        with _lock(folder, wait=True):
            (folder / POINTER).unlink(missing_ok=True)
            _sync_folder(folder)
            _collect(folder, keep=None, must=True)
    except OSError as error:
        raise StorageError(path=str(folder), reason=error.strerror or str(error)) from error


def sync_index(index: VectorIndex, stamp: Stamp, changes: Iterable[Change], seq: int) -> tuple[VectorIndex, Stamp]:
    """Bring ``index`` from ``stamp`` to the catalog's change number ``seq``.

    Args:
        changes: (version id, vector float32 (dim,)) for a row to be served, (version id, None) for one no longer
            served, for every version touched after ``stamp.seq``, oldest first: of an id given twice the last counts.
            Applying a change again does no harm.
        seq: the last change number those changes include.

    Returns:
        The same index object and its new stamp.
    """
    pending: dict[int, Vectors | None] = {}
    for version, vector in changes:
        pending[version] = vector
        if len(pending) >= _SYNC_ROWS:
            _apply(index, pending)
            pending = {}
    _apply(index, pending)
    return index, replace(stamp, seq=seq, kind=index.kind, size=index.size)


def _apply(index: VectorIndex, pending: dict[int, Vectors | None]) -> None:
    gone = [version for version, vector in pending.items() if vector is None]
    if gone:
        index.remove(np.array(gone, np.int64))
    kept = [(version, vector) for version, vector in pending.items() if vector is not None]
    if kept:
        index.add(np.array([version for version, _ in kept], np.int64), np.stack([vector for _, vector in kept]))


def worth_saving(index: VectorIndex, saved: int | None) -> bool:
    """Whether a save pays: nothing is kept yet (None), or a tenth of the ``saved`` rows' worth has changed since.

    Topping up costs per changed row at every cold start, a save costs per row in all; at a tenth both stay small.
    """
    if saved is None:
        return True
    pending = getattr(index, "pending", 0)
    return bool(pending > max(64, saved // 10))


# -- one generation -----------------------------------------------------------------------------
def _describe(generation: Path, stamp: Stamp, dim: int) -> bytes:
    """The manifest of the files in ``generation``, which are forced to disk on the way."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(generation.iterdir()):
        with open(path, "rb") as stream:
            eager = not _lazily_read(path.name, path.stat().st_size)
            digest = hashlib.file_digest(stream, "sha256").hexdigest() if eager else None
            os.fsync(stream.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return canonical_json({"format": FORMAT, "stamp": asdict(stamp), "dim": dim, "files": files}).encode()


def _lazily_read(name: str, size: int) -> bool:
    return name == "vectors.f32" and size > EAGER_BYTES


def _load_generation(folder: Path, pointer: bytes) -> tuple[VectorIndex, Stamp] | None:
    name, _, digest = pointer.decode("utf-8", "replace").strip().partition(" ")
    if not name.startswith("gen-") or "/" in name or "\\" in name:
        return None
    generation = folder / name
    raw = _read(generation / MANIFEST)
    if raw is None or hashlib.sha256(raw).hexdigest() != digest:
        return None
    manifest = json.loads(raw)  # its digest is the one the pointer names, so it is what this package wrote
    if manifest["format"] != FORMAT:
        return None
    stamp = Stamp(**manifest["stamp"])
    try:
        files = {name: _map(generation / name, entry) for name, entry in manifest["files"].items()}
        index = _open(generation, stamp.kind, files, manifest)
    except (OSError, IntegrityError, KeyError):
        return None
    return (index, stamp) if index.size == stamp.size else None


def _open(generation: Path, kind: str, files: dict[str, NDArray[np.uint8]], manifest: dict[str, Any]) -> VectorIndex:
    unchecked = any(entry["sha256"] is None for entry in manifest["files"].values())
    if kind == ExactIndex.kind:
        return ExactIndex.load(generation, files, manifest["dim"], unchecked=unchecked)
    raise KeyError(kind)


def _map(path: Path, entry: dict[str, Any]) -> NDArray[np.uint8]:
    """The file's bytes, mapped and verified. Raises IntegrityError or OSError when they are not as described."""
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise IntegrityError(what="index file", name=path.name, expected=entry["bytes"], found=size)
    data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r").view(np.ndarray) if size else np.empty(0, np.uint8)
    if entry["sha256"] is not None:
        found = hashlib.sha256(data.data).hexdigest()
        if found != entry["sha256"]:
            raise IntegrityError(what="index file", name=path.name, expected=entry["sha256"], found=found)
    return data


# -- the folder ---------------------------------------------------------------------------------
def _point(folder: Path, name: str, manifest: bytes) -> None:
    temporary = folder / f"{POINTER}.tmp"
    _write(temporary, f"{name} {hashlib.sha256(manifest).hexdigest()}\n".encode())
    os.replace(temporary, folder / POINTER)
    _sync_folder(folder)


def _current_name(folder: Path) -> str | None:
    pointer = _read(folder / POINTER)
    return None if pointer is None else pointer.decode("utf-8", "replace").partition(" ")[0]


def _is_newer(folder: Path, stamp: Stamp) -> bool:
    """Whether the current generation holds a later state of the same catalog than ``stamp``."""
    current = load(folder)
    if current is None:
        return False
    kept = current[1]
    return (kept.space_digest, kept.metric_digest) == (stamp.space_digest, stamp.metric_digest) and kept.seq > stamp.seq


def _collect(folder: Path, *, keep: str | None, must: bool = False) -> None:
    """Delete generations other than ``keep`` and what a killed writer left; only the lock's holder may."""
    for path in folder.iterdir():
        if path.name.startswith(("gen-", "tmp-")) and path.name != keep:
            shutil.rmtree(path, ignore_errors=not must)
    (folder / f"{POINTER}.tmp").unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """The folder's writer lock; False when it is taken and ``wait`` is not asked. A dead holder's lock is free."""
    with open(folder / LOCK, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
