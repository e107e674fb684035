"""The on-disk cache: one folder per space, metric and kind, holding whole generations and a pointer to the current one.

    <folder>/CURRENT            name of the generation and the SHA-256 of its manifest
    <folder>/gen-<random>/      manifest.json (stamp, every file's length and CRC-32) and the kind's own files
    <folder>/LOCK               held by the one writer; readers take no lock

A generation is written aside, forced to disk, renamed into place and only then pointed at, so a crash at any instant
leaves the old one or the new one, and a reader sees a whole one. What does not check out is as good as absent:
``load`` answers None and the caller rebuilds from the catalog. The checksum is against accidents, not against someone
who can write here: CRC-32 reads at about 4 GB/s where SHA-256 reads at 1.6 (measured), and every cold start pays it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError, StorageError
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.factory import open_index
from w2w_registry.index.milvus import MilvusIndex, MilvusTarget, collection_name
from w2w_registry.index.protocol import Batch, Stamp, VectorIndex, Vectors
from w2w_registry.index.rows import SegmentedIndex
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


def load(folder: Path, *, milvus: MilvusTarget | None = None) -> tuple[VectorIndex, Stamp] | None:
    """The index kept in ``folder`` with its stamp, read in place; None when there is none that checks out.

    The caller compares the stamp with the catalog. Everything but the vectors of a large index (``EAGER_BYTES``) is
    verified here; those are verified as they are read, and ``search`` raises IntegrityError for a damaged row:
    ``discard`` the folder and rebuild. A folder for the milvus kind stands for a collection at ``milvus``.

    Raises:
        MissingExtra: the kind kept there needs a package that is not installed.
        Busy, StorageError: Milvus is locked by another process, or cannot be used.
    """
    if milvus is not None and folder.name.endswith("-milvus"):
        return MilvusIndex.attach(milvus, collection_name(folder))
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
    """Make ``index`` the current generation, and delete the others; of a milvus one, record the stamp where it lives.

    Returns False, with nothing written, when another process is saving here or has saved a later catalog state: the
    cache is then as good without this one. A catalog set back to an earlier state (a restored backup) discards first.

    Raises:
        StorageError: the disk refused. IntegrityError: the index was read from damaged rows.
    """
    if isinstance(index, MilvusIndex):
        return index.keep(stamp)
    assert isinstance(index, SegmentedIndex)
    return _publish(folder, type(index), stamp, index.dim, index.batches()) is not None


def build(
    folder: Path, kind: str, dim: int, stamp: Stamp, batches: Iterable[Batch], *, milvus: MilvusTarget | None = None
) -> tuple[VectorIndex, Stamp]:
    """A new index of all the rows, straight to where it is kept, so that memory holds one batch of them at a time.

    Args:
        kind: as ``factory.choose_kind`` gave it.
        stamp: space, metric and change number the rows belong to; kind and size are filled in.
        batches: (ids int64 (n,), vectors float32 (n, dim)) in ascending id order.

    Returns:
        The index and its stamp. While another process is saving here, or has saved a later state, the index is built
        in memory and nothing is written.

    Raises:
        SettingError, MissingExtra, Busy: as ``factory.open_index``. StorageError: the disk or Milvus refused.
        IntegrityError: ids out of order, or vectors that no index would admit.
    """
    index = open_index(kind, dim=dim, folder=folder, milvus=milvus)
    if isinstance(index, SegmentedIndex):
        published = _publish(folder, type(index), stamp, dim, batches)
        if published is not None:
            return published
    for ids, vectors in batches:
        index.add(ids, vectors)
    stamp = replace(stamp, kind=index.kind, size=index.size)
    if isinstance(index, MilvusIndex):
        index.keep(stamp)
    return index, stamp


def discard(folder: Path, *, milvus: MilvusTarget | None = None) -> None:
    """Delete every generation, as erasure asks; waits for a writer to finish. What was never there is no error.

    Raises:
        StorageError: something could not be deleted. MissingExtra, Busy: as ``load``.
    """
    if milvus is not None and folder.name.endswith("-milvus"):
        found = MilvusIndex.attach(milvus, collection_name(folder))
        if found is not None:
            found[0].drop()
        return
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
    return index.pending > max(64, saved // 10)


# -- one generation -----------------------------------------------------------------------------
def _publish(
    folder: Path, kind: type[SegmentedIndex], stamp: Stamp, dim: int, batches: Iterable[Batch]
) -> tuple[VectorIndex, Stamp] | None:
    """Write a generation of those rows and point to it; None, with ``batches`` untouched, when it is not our turn."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder, wait=False) as held:
            if not held or _is_newer(folder, stamp):
                return None
            _collect(folder, keep=_current_name(folder))
            temporary = folder / f"tmp-{uuid.uuid4().hex}"
            temporary.mkdir()
            size = kind.write(temporary, dim, batches)
            manifest = _describe(temporary, replace(stamp, kind=kind.kind, size=size), dim)
            _write(temporary / MANIFEST, manifest)
            _sync_folder(temporary)
            generation = folder / temporary.name.replace("tmp-", "gen-")
            temporary.rename(generation)
            _sync_folder(folder)
            pointer = _point(folder, generation.name, manifest)
            _collect(folder, keep=generation.name)
            return _load_generation(folder, pointer)
    except OSError as error:
        raise StorageError(path=str(folder), reason=error.strerror or str(error)) from error


def _describe(generation: Path, stamp: Stamp, dim: int) -> bytes:
    """The manifest of the files in ``generation``, which are forced to disk on the way."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(generation.iterdir()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        size = path.stat().st_size
        files[path.name] = {"bytes": size, "crc32": None if _lazily_read(path.name, size) else _checksum(_mapped(path))}
    return canonical_json({"format": FORMAT, "stamp": asdict(stamp), "dim": dim, "files": files}).encode()


def _lazily_read(name: str, size: int) -> bool:
    return name == "vectors.f32" and size > EAGER_BYTES


def _manifest(folder: Path, pointer: bytes) -> tuple[Path, dict[str, Any]] | None:
    """The generation a pointer names and its manifest; None unless the manifest is the one that was pointed to."""
    name, _, digest = pointer.decode("utf-8", "replace").strip().partition(" ")
    if not name.startswith("gen-") or "/" in name or "\\" in name:
        return None
    raw = _read(folder / name / MANIFEST)
    if raw is None or hashlib.sha256(raw).hexdigest() != digest:
        return None
    manifest = json.loads(raw)  # its digest is the one the pointer names, so it is what this package wrote
    return (folder / name, manifest) if manifest["format"] == FORMAT else None


def _load_generation(folder: Path, pointer: bytes) -> tuple[VectorIndex, Stamp] | None:
    found = _manifest(folder, pointer)
    if found is None:
        return None
    generation, manifest = found
    stamp = Stamp(**manifest["stamp"])
    try:
        files = {name: _map(generation / name, entry) for name, entry in manifest["files"].items()}
        index = _open(generation, stamp.kind, files, manifest)
    except (OSError, IntegrityError, KeyError):
        return None
    return (index, stamp) if index.size == stamp.size else None


def _open(generation: Path, kind: str, files: dict[str, NDArray[np.uint8]], manifest: dict[str, Any]) -> VectorIndex:
    unchecked = any(entry["crc32"] is None for entry in manifest["files"].values())
    if kind == ExactIndex.kind:
        return ExactIndex.load(generation, files, manifest["dim"], unchecked=unchecked)
    if kind == "faiss":
        from w2w_registry.index.faiss_index import FaissIndex

        return FaissIndex.load(generation, files, manifest["dim"], unchecked=unchecked)
    raise KeyError(kind)


def _map(path: Path, entry: dict[str, Any]) -> NDArray[np.uint8]:
    """The file's bytes, mapped and verified. Raises IntegrityError or OSError when they are not as described."""
    data = _mapped(path)
    if len(data) != entry["bytes"]:
        raise IntegrityError(what="index file", name=path.name, expected=entry["bytes"], found=len(data))
    if entry["crc32"] is not None and (found := _checksum(data)) != entry["crc32"]:
        raise IntegrityError(what="index file", name=path.name, expected=entry["crc32"], found=found)
    return data


def _mapped(path: Path) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, np.uint8)


def _checksum(data: NDArray[np.uint8]) -> int:
    return zlib.crc32(data.data)


# -- the folder ---------------------------------------------------------------------------------
def _point(folder: Path, name: str, manifest: bytes) -> bytes:
    temporary = folder / f"{POINTER}.tmp"
    pointer = f"{name} {hashlib.sha256(manifest).hexdigest()}\n".encode()
    _write(temporary, pointer)
    os.replace(temporary, folder / POINTER)
    _sync_folder(folder)
    return pointer


def _current_name(folder: Path) -> str | None:
    pointer = _read(folder / POINTER)
    return None if pointer is None else pointer.decode("utf-8", "replace").partition(" ")[0]


def _is_newer(folder: Path, stamp: Stamp) -> bool:
    """Whether the current generation checks out and holds a later state of the same catalog than ``stamp``."""
    pointer = _read(folder / POINTER)
    manifest = None if pointer is None else _manifest(folder, pointer)
    if pointer is None or manifest is None:
        return False
    kept = Stamp(**manifest[1]["stamp"])
    same = (kept.space_digest, kept.metric_digest) == (stamp.space_digest, stamp.metric_digest)
    return same and kept.seq > stamp.seq and _load_generation(folder, pointer) is not None


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
