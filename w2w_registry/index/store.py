"""The on-disk cache: a folder per space, metric and kind, with immutable segments and the generation that lists them
(``generations`` says how they lie there).

A save writes what changed as a new segment, together with the small segments before it, so that sizes at least double
from one to the one before. What does not check out is as good as absent: ``load`` answers None and the caller rebuilds
from the catalog.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from w2w_registry.errors import storing
from w2w_registry.index.disk import lock, read, sync_folder
from w2w_registry.index.generations import POINTER, collect, load_generation, writing
from w2w_registry.index.kinds import segments_of
from w2w_registry.index.protocol import Batch, Stamp, VectorIndex, Vectors
from w2w_registry.index.rows import Source
from w2w_registry.index.segments import SegmentedIndex, merged

_READ_ATTEMPTS = 8
_SYNC_ROWS = 1024
_SAVE_ROWS = 1024
_FOLD = 2  # a segment is written anew with the rows after it when it is shorter than so many times those
Change = tuple[int, Vectors | None]


@dataclass(frozen=True)
class FolderEngine:
    """An index of one of the kinds that live in a folder: see ``protocol.Engine``.

    ``source``: where the exact rows are. With one, kinds that can do so store them short; without one they are stored
    as they are, and short ones cannot be read.
    """

    folder: Path
    kind: str
    source: Source | None = None
    settled: ClassVar[bool] = True

    def empty(self, dim: int) -> VectorIndex:
        return segments_of(self.kind)(dim)

    def open(self) -> tuple[VectorIndex, Stamp] | None:
        return load(self.folder, self.source)

    def mark(self) -> bytes | None:
        pointer = read(self.folder / POINTER)
        return None if pointer is None else self.kind.encode() + b" " + pointer

    def wait(self) -> bool:
        if not self.folder.is_dir():
            return False
        with storing(self.folder), lock(self.folder, wait=False) as held:
            if held:
                return False
        with storing(self.folder), lock(self.folder, wait=True):
            return True

    def build(self, dim: int, stamp: Stamp, batches: Iterable[Batch]) -> tuple[VectorIndex, Stamp]:
        return build(self.folder, self.kind, dim, stamp, batches, self.source)

    def keep(self, index: VectorIndex, stamp: Stamp) -> bool:
        return save(self.folder, index, stamp, self.source)

    def optimize(self) -> tuple[int, int] | None:
        return optimize(self.folder, self.source)

    def drop(self) -> None:
        discard(self.folder)


def load(folder: Path, source: Source | None = None) -> tuple[VectorIndex, Stamp] | None:
    """The index kept in ``folder`` with its stamp, read in place; None when there is none that checks out.

    The caller compares the stamp with the catalog. Everything but the vectors of a large segment (``EAGER_BYTES``) and
    the codes is verified here; those are verified as they are read, and ``search`` raises IntegrityError for a damaged
    row: ``discard`` the folder and rebuild.

    Raises:
        MissingExtra: the kind kept there needs a package that is not installed.
    """
    for _ in range(_READ_ATTEMPTS):
        pointer = read(folder / POINTER)
        if pointer is None:
            return None
        found = load_generation(folder, pointer)
        # A writer may have replaced and deleted the generation while it was being opened: look again.
        if found is not None or read(folder / POINTER) == pointer:
            return found if found is None else _reading(found, source)
    return None


def _reading(found: tuple[VectorIndex, Stamp], source: Source | None) -> tuple[VectorIndex, Stamp] | None:
    """What was opened, reading exact rows from ``source``; None when it needs one and there is none."""
    index, _ = found
    assert isinstance(index, SegmentedIndex)
    if source is None and any(segment.rows.errors is not None for segment in index.segments):
        return None
    index.read_from(source)
    return found


def save(folder: Path, index: VectorIndex, stamp: Stamp, source: Source | None = None) -> bool:
    """Make the state of ``index`` the current generation, and delete what it does not need.

    Returns False, with nothing written, when another process is saving here or has saved a later catalog state: the
    cache is then as good without this one. A catalog set back to an earlier state (a restored backup) discards first.

    Raises:
        StorageError: the disk refused. IntegrityError: the index was read from damaged rows.
    """
    assert isinstance(index, SegmentedIndex)
    with writing(folder, stamp) as writer:
        if writer is None:
            return False
        segments = list(index.segments) if writer.holds(index.segments) else []
        rows = len(index.tail) if segments else index.size
        while segments and (segments[-1].live < _FOLD * rows or segments[-1].live * 2 < len(segments[-1].rows)):
            rows += segments.pop().live
        fresh = merged(index.segments[len(segments) :], index.tail, index.dim) if rows else ()
        writer.publish(type(index), stamp, index.dim, segments, fresh, short=source is not None)
        return True


def build(
    folder: Path, kind: str, dim: int, stamp: Stamp, batches: Iterable[Batch], source: Source | None = None
) -> tuple[VectorIndex, Stamp]:
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
    index = segments_of(kind)(dim)
    with writing(folder, stamp) as writer:
        if writer is not None:
            pointer = writer.publish(type(index), stamp, dim, [], batches, short=source is not None)
            found = load_generation(folder, pointer)
            if found is not None and (opened := _reading(found, source)) is not None:
                return opened
    for ids, vectors in batches:
        index.add(ids, vectors)
    return index, replace(stamp, kind=index.kind, size=index.size)


def optimize(folder: Path, source: Source | None = None) -> tuple[int, int] | None:
    """Write all segments as one, without their dead rows; returns how many there were and how many rows there are.

    None, with nothing written, when nothing is kept here or another process is saving.
    """
    found = load(folder, source)
    if found is None:
        return None
    index, stamp = found
    assert isinstance(index, SegmentedIndex)
    with writing(folder, stamp) as writer:
        if writer is None or not writer.holds(index.segments):
            return None
        if len(index.segments) > 1 or index.pending or any(segment.dead.any() for segment in index.segments):
            writer.publish(type(index), stamp, index.dim, [], index.batches(), short=source is not None)
    return len(index.segments), index.size


def discard(folder: Path) -> None:
    """Delete every generation, as erasure asks; waits for a writer to finish. What was never there is no error.

    Raises:
        StorageError: something could not be deleted.
    """
    if not folder.is_dir():
        return
    with storing(folder), lock(folder, wait=True):
        (folder / POINTER).unlink(missing_ok=True)
        sync_folder(folder)
        collect(folder, keep=(), must=True)


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
