"""The on-disk cache: a folder per space, metric and kind, with immutable segments and the generation that lists them.

    <folder>/CURRENT            name of the generation and the SHA-256 of its manifest
    <folder>/gen-<random>/      manifest.json (stamp, every segment's files with length and CRC-32) and, for segments
                                that have any, which of their rows are dead
    <folder>/seg-<random>/      a segment: the kind's own files
    <folder>/LOCK               held by the one writer; readers take no lock

A save writes what changed as a new segment, together with the small segments before it, so that sizes at least double
from one to the one before. Segments and generations are written aside, forced to disk, renamed into place and only then
pointed at, so a crash at any instant leaves the old state or the new one, and a reader sees a whole one. What does not
check out is as good as absent: ``load`` answers None and the caller rebuilds from the catalog. The checksum is against
accidents, not against someone who can write here: CRC-32 reads at about 4 GB/s where SHA-256 reads at 1.6 (measured),
and every cold start pays it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError, StorageError
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.protocol import Batch, Stamp, VectorIndex, Vectors
from w2w_registry.index.segments import Segment, SegmentedIndex, merged
from w2w_registry.records import canonical_json

FORMAT = 2
POINTER, MANIFEST, LOCK = "CURRENT", "manifest.json", "LOCK"
EAGER_BYTES = 64 << 20  # larger row files are verified row by row as they are read
_READ_ATTEMPTS = 8
_SYNC_ROWS = 1024
_SAVE_ROWS = 1024
_FOLD = 2  # a segment is written anew with the rows after it when it is shorter than so many times those
Change = tuple[int, Vectors | None]


def folder_for(root: Path, space_digest: str, metric_digest: str, kind: str) -> Path:
    """Where the index of one space under one metric is kept, for one kind."""
    return root / f"{space_digest[:16]}-{metric_digest[:16]}-{kind}"


def kind_of(name: str) -> type[SegmentedIndex]:
    """The class of a kind that is kept in a folder. Raises KeyError for any other."""
    if name == ExactIndex.kind:
        return ExactIndex
    if name == "faiss":
        from w2w_registry.index.faiss_index import FaissIndex

        return FaissIndex
    raise KeyError(name)


@dataclass(frozen=True)
class FolderEngine:
    """An index of one of the kinds that live in a folder: see ``protocol.Engine``."""

    folder: Path
    kind: str

    def empty(self, dim: int) -> VectorIndex:
        return kind_of(self.kind)(dim)

    def open(self) -> tuple[VectorIndex, Stamp] | None:
        return load(self.folder)

    def build(self, dim: int, stamp: Stamp, batches: Iterable[Batch]) -> tuple[VectorIndex, Stamp]:
        return build(self.folder, self.kind, dim, stamp, batches)

    def keep(self, index: VectorIndex, stamp: Stamp) -> bool:
        return save(self.folder, index, stamp)

    def optimize(self) -> tuple[int, int] | None:
        return optimize(self.folder)

    def drop(self) -> None:
        discard(self.folder)


def load(folder: Path) -> tuple[VectorIndex, Stamp] | None:
    """The index kept in ``folder`` with its stamp, read in place; None when there is none that checks out.

    The caller compares the stamp with the catalog. Everything but the vectors of a large segment (``EAGER_BYTES``) and
    the codes is verified here; those are verified as they are read, and ``search`` raises IntegrityError for a damaged
    row: ``discard`` the folder and rebuild.

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
    """Make the state of ``index`` the current generation, and delete what it does not need.

    Returns False, with nothing written, when another process is saving here or has saved a later catalog state: the
    cache is then as good without this one. A catalog set back to an earlier state (a restored backup) discards first.

    Raises:
        StorageError: the disk refused. IntegrityError: the index was read from damaged rows.
    """
    assert isinstance(index, SegmentedIndex)
    with _writing(folder, stamp) as writer:
        if writer is None:
            return False
        segments = list(index.segments) if writer.holds(index.segments) else []
        rows = len(index.tail) if segments else index.size
        while segments and (segments[-1].live < _FOLD * rows or segments[-1].live * 2 < len(segments[-1].rows)):
            rows += segments.pop().live
        fresh = merged(index.segments[len(segments) :], index.tail, index.dim) if rows else ()
        writer.publish(type(index), stamp, index.dim, segments, fresh)
        return True


def build(folder: Path, kind: str, dim: int, stamp: Stamp, batches: Iterable[Batch]) -> tuple[VectorIndex, Stamp]:
    """A new index of all the rows, straight to where it is kept, so that memory holds one batch of them at a time.

    Args:
        kind: as ``factory.choose_kind`` gave it.
        stamp: space, metric, change number and event the rows belong to; kind and size are filled in.
        batches: (ids int64 (n,), vectors float32 (n, dim)) in ascending id order.

    Returns:
        The index and its stamp. While another process is saving here, or has saved a later state, the index is built
        in memory and nothing is written.

    Raises:
        MissingExtra: the kind's package is not installed. StorageError: the disk refused.
        IntegrityError: ids out of order, or vectors that no index would admit.
    """
    index = kind_of(kind)(dim)
    with _writing(folder, stamp) as writer:
        if writer is not None:
            pointer = writer.publish(type(index), stamp, dim, [], batches)
            found = _load_generation(folder, pointer)
            if found is not None:
                return found
    for ids, vectors in batches:
        index.add(ids, vectors)
    return index, replace(stamp, kind=index.kind, size=index.size)


def optimize(folder: Path) -> tuple[int, int] | None:
    """Write all segments as one, without their dead rows; returns how many there were and how many rows there are.

    None, with nothing written, when nothing is kept here or another process is saving.
    """
    found = load(folder)
    if found is None:
        return None
    index, stamp = found
    assert isinstance(index, SegmentedIndex)
    with _writing(folder, stamp) as writer:
        if writer is None or not writer.holds(index.segments):
            return None
        if len(index.segments) > 1 or index.pending or any(segment.dead.any() for segment in index.segments):
            writer.publish(type(index), stamp, index.dim, [], index.batches())
    return len(index.segments), index.size


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
            _collect(folder, keep=(), must=True)
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
    """Whether a save pays: nothing is kept yet (None), or a tenth of the ``saved`` rows' worth has changed since, or
    ``_SAVE_ROWS`` rows.

    Topping up costs per changed row at every cold start, a save costs per changed row and a few forced writes.
    """
    if saved is None:
        return True
    return index.pending > min(_SAVE_ROWS, max(64, saved // 10))


# -- one generation -----------------------------------------------------------------------------
class _Writer:
    """The one process that may write in a folder now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def holds(self, segments: Sequence[Segment]) -> bool:
        """Whether every one of those segments is kept here, as another save may have deleted some."""
        return bool(segments) and all(s.name and (self._folder / s.name).is_dir() for s in segments)

    def publish(
        self, kind: type[SegmentedIndex], stamp: Stamp, dim: int, segments: Sequence[Segment], fresh: Iterable[Batch]
    ) -> bytes:
        """Point to a generation of those segments and one new one of the ``fresh`` rows; returns the pointer."""
        pointer = _read(self._folder / POINTER)
        current = None if pointer is None else _manifest(self._folder, pointer)
        kept = [] if current is None else [current[0].name, *(s["name"] for s in current[1]["segments"])]
        _collect(self._folder, keep=kept)
        entries = [self._entry(segment, current) for segment in segments]
        rows = sum(segment.live for segment in segments)
        written = self._segment(kind, dim, fresh)
        if written is not None:
            entries.append(written)
            rows += written["rows"]
        temporary = self._folder / f"tmp-{uuid.uuid4().hex}"
        temporary.mkdir()
        for segment, entry in zip(segments, entries, strict=False):
            entry["dead"] = _write_dead(temporary, segment)
        manifest = canonical_json(
            {
                "format": FORMAT,
                "stamp": asdict(replace(stamp, kind=kind.kind, size=rows)),
                "dim": dim,
                "segments": entries,
            }
        ).encode()
        _write(temporary / MANIFEST, manifest)
        generation = self._into_place(temporary, "gen-")
        pointer = _point(self._folder, generation, manifest)
        _collect(self._folder, keep=[generation, *(entry["name"] for entry in entries)])
        return pointer

    def _segment(self, kind: type[SegmentedIndex], dim: int, fresh: Iterable[Batch]) -> dict[str, Any] | None:
        """A segment of those rows in place, as the manifest describes it; None for no rows."""
        temporary = self._folder / f"tmp-{uuid.uuid4().hex}"
        temporary.mkdir()
        rows = kind.write(temporary, dim, fresh)
        if rows == 0:
            shutil.rmtree(temporary)
            return None
        files = _describe(temporary)
        return {"name": self._into_place(temporary, "seg-"), "rows": rows, "files": files, "dead": None}

    def _entry(self, segment: Segment, current: tuple[Path, dict[str, Any]] | None) -> dict[str, Any]:
        """What the current manifest says of a segment that stays."""
        entries = [] if current is None else current[1]["segments"]
        found = next((dict(entry) for entry in entries if entry["name"] == segment.name), None)
        if found is None:
            raise IntegrityError(what="index segment", name=segment.name, expected="kept", found="gone")
        return found

    def _into_place(self, temporary: Path, prefix: str) -> str:
        _sync_folder(temporary)
        final = self._folder / temporary.name.replace("tmp-", prefix)
        temporary.rename(final)
        _sync_folder(self._folder)
        return final.name


@contextmanager
def _writing(folder: Path, stamp: Stamp) -> Iterator[_Writer | None]:
    """The right to write there; None when it is not our turn: another process writes, or has written a later state."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder, wait=False) as held:
            yield _Writer(folder) if held and not _is_newer(folder, stamp) else None
    except OSError as error:
        raise StorageError(path=str(folder), reason=error.strerror or str(error)) from error


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Length and CRC-32 of the files in ``folder``, which are forced to disk on the way."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        size = path.stat().st_size
        lazily = _lazily_read(path.name, size)
        files[path.name] = {"bytes": size, "crc32": None if lazily else zlib.crc32(_mapped(path)[0].data)}
    return files


def _lazily_read(name: str, size: int) -> bool:
    """Rows of a large segment have checksums of their own, and so have the chunks of every kind of codes."""
    return name.endswith(".u8") or (name == "vectors.f32" and size > EAGER_BYTES)


def _write_dead(folder: Path, segment: Segment) -> dict[str, Any] | None:
    if not segment.dead.any():
        return None
    data = np.packbits(segment.dead).tobytes()
    _write(folder / f"{segment.name}.dead", data)
    return {"bytes": len(data), "crc32": zlib.crc32(data)}


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
        kind = kind_of(stamp.kind)
        segments = [_load_segment(kind, generation, entry, manifest["dim"]) for entry in manifest["segments"]]
    except (OSError, IntegrityError, KeyError):
        return None
    index = kind(manifest["dim"], segments)
    return (index, stamp) if index.size == stamp.size else None


def _load_segment(kind: type[SegmentedIndex], generation: Path, entry: dict[str, Any], dim: int) -> Segment:
    """Raises IntegrityError or OSError when a file is not as the manifest describes it."""
    folder = generation.parent / entry["name"]
    files, maps = {}, {}
    for name, described in entry["files"].items():
        files[name], maps[name] = _map(folder / name, described)
    unchecked = entry["files"]["vectors.f32"]["crc32"] is None
    segment = kind.load(folder, files, dim, unchecked=unchecked)
    mapped = maps["vectors.f32"]
    if unchecked and mapped is not None:
        segment.rows.read_at_random(mapped)
    segment.name = entry["name"]
    if entry["dead"] is not None:
        bits, _ = _map(generation / f"{segment.name}.dead", entry["dead"])
        segment.dead = np.unpackbits(bits, count=len(segment.rows)).astype(bool)
    return segment


def _map(path: Path, described: dict[str, Any]) -> tuple[NDArray[np.uint8], mmap.mmap | None]:
    """The file's bytes, mapped and verified. Raises IntegrityError or OSError when they are not as described."""
    data, mapped = _mapped(path)
    if len(data) != described["bytes"]:
        raise IntegrityError(what="index file", name=path.name, expected=described["bytes"], found=len(data))
    if described["crc32"] is not None and (found := zlib.crc32(data.data)) != described["crc32"]:
        raise IntegrityError(what="index file", name=path.name, expected=described["crc32"], found=found)
    return data, mapped


def _mapped(path: Path) -> tuple[NDArray[np.uint8], mmap.mmap | None]:
    with open(path, "rb") as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            return np.empty(0, np.uint8), None
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8), mapped


# -- the folder ---------------------------------------------------------------------------------
def _point(folder: Path, name: str, manifest: bytes) -> bytes:
    temporary = folder / f"{POINTER}.tmp"
    pointer = f"{name} {hashlib.sha256(manifest).hexdigest()}\n".encode()
    _write(temporary, pointer)
    os.replace(temporary, folder / POINTER)
    _sync_folder(folder)
    return pointer


def _is_newer(folder: Path, stamp: Stamp) -> bool:
    """Whether the current generation checks out and holds a later state of the same catalog than ``stamp``."""
    pointer = _read(folder / POINTER)
    manifest = None if pointer is None else _manifest(folder, pointer)
    if pointer is None or manifest is None:
        return False
    kept = Stamp(**manifest[1]["stamp"])
    same = (kept.space_digest, kept.metric_digest) == (stamp.space_digest, stamp.metric_digest)
    return same and kept.seq > stamp.seq and _load_generation(folder, pointer) is not None


def _collect(folder: Path, *, keep: Iterable[str], must: bool = False) -> None:
    """Delete generations and segments other than ``keep`` and what a killed writer left; only the lock's holder may."""
    kept = set(keep)
    for path in folder.iterdir():
        if path.name.startswith(("gen-", "seg-", "tmp-")) and path.name not in kept:
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
