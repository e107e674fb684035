"""The index of a space, always as new as the catalog: opened, compared by its stamp, topped up or rebuilt."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import vectors
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.resolve import space_for
from w2w_registry.catalog.space_rows import all_spaces
from w2w_registry.errors import IntegrityError, StorageError
from w2w_registry.index import store
from w2w_registry.index.factory import FAISS_ROWS, engine_for
from w2w_registry.index.protocol import Batch, Stamp, VectorIndex
from w2w_registry.index.segments import SegmentedIndex
from w2w_registry.records import Result, VersionState, digest_of
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.metrics import Metric

Answer = TypeVar("Answer")
_OPEN_AT_MOST = 2


@dataclass(frozen=True)
class Nearest:
    """The index of one space under its metric, over the versions in service."""

    metric: Metric
    _cache: _Cache

    @property
    def size(self) -> int:
        """How many versions in service have coordinates in the space."""
        return self._cache.index.size

    @property
    def exhaustive(self) -> bool:
        """Whether ``search`` looks at every version, so that it never misses one."""
        return self._cache.index.exhaustive

    def search(
        self,
        coordinates: NDArray[np.float32],
        limit: int,
        allowed: NDArray[np.int64] | None = None,
        *,
        exact: bool = False,
        fast: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Version ids (q, m) and scores (q, m) nearest to coordinates (q, k); of every version when ``exact``, of fewer
        than usual when ``fast``."""
        units = self.metric.unit(coordinates)
        if self._cache.ahead and allowed is None:
            allowed = vectors.ids(self._cache.session, self._cache.space.id)
        return self._cache.ask(lambda index: index.search(units, limit, allowed=allowed, exact=exact, fast=fast))

    def above(
        self, coordinates: NDArray[np.float32], threshold: float, allowed: NDArray[np.int64] | None = None
    ) -> list[Batch]:
        """For each point (q, k) every version that scores ``threshold`` or more: ids (m,) and scores (m,), best first.

        None is missed, whatever the kind of index: that nobody else reaches the threshold is proven.
        """
        units = self.metric.unit(coordinates)
        if self._cache.ahead and allowed is None:
            allowed = vectors.ids(self._cache.session, self._cache.space.id)
        return self._cache.ask(lambda index: index.above(units, threshold, allowed=allowed))


def open_nearest(registry: Registry, session: Session, space: Space) -> Nearest:
    """The up-to-date index of ``space`` as the session's snapshot sees the catalog."""
    metric = metric_of(space)
    return Nearest(metric, _Cache(registry, session, space, metric))


@dataclass(frozen=True, eq=False)
class Optimized(Result):
    """One space's index after ``optimize``: of how many pieces it was written as one, and its rows; None both when it
    was left as it is (another process is writing, or its server sees to that)."""

    space: str
    kind: str
    pieces: int | None
    rows: int | None


def optimize(registry: Registry, ref: str | None = None) -> list[Optimized]:
    """Bring the index of a space (all spaces when none is named) up to the catalog and write it as one piece.

    Others go on searching meanwhile: what they have open stays until they close it.

    Raises:
        NotFound: no such space. StorageError: the disk refused.
    """
    with registry.catalog.read() as session:
        spaces = all_spaces(session) if ref is None else [space_for(session, ref)]
        return [_Cache(registry, session, space, metric_of(space)).optimize() for space in spaces]


@dataclass(frozen=True, eq=False)
class _Opened:
    """An index as one state of the catalog has it; only read, by one search at a time. ``mark``: what its segments lay
    in when they were opened."""

    stamp: Stamp
    index: VectorIndex
    mark: bytes | None
    asking: threading.Lock = field(default_factory=threading.Lock)


class _Shelf:
    """The indexes this process used last: while nothing changes, a search opens and counts nothing, and what changes is
    added to what is open."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], _Opened] = OrderedDict()
        self._opening: dict[tuple[str, ...], threading.Lock] = {}
        self._lock = threading.Lock()

    def opening(self, key: tuple[str, ...]) -> threading.Lock:
        """Held by the one thread that opens, tops up or rebuilds an index; the others then find it done."""
        with self._lock:
            return self._opening.setdefault(key, threading.Lock())

    def last(self, key: tuple[str, ...]) -> _Opened | None:
        with self._lock:
            return self._kept.get(key)

    def put(self, key: tuple[str, ...], opened: _Opened) -> None:
        """Keep ``opened``, unless what is kept is of a later state of the same catalog."""
        with self._lock:
            there = self._kept.get(key)
            if there is not None and there.mark == opened.mark and there.stamp.seq > opened.stamp.seq:
                return
            self._kept[key] = opened
            self._kept.move_to_end(key)
            while len(self._kept) > _OPEN_AT_MOST:
                self._kept.popitem(last=False)

    def drop(self, key: tuple[str, ...]) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


_SHELF = _Shelf()


def forget_open() -> None:
    """Let go of the indexes this process has open, with the vectors in them."""
    _SHELF.clear()


class _Cache:
    """The index as the session's snapshot has it: as it was kept, topped up, or made again.

    ``ahead``: another process has kept the state of a later event than this snapshot's. Its rows are then searched as
    they are, and what this snapshot does not know is left out.
    """

    def __init__(self, registry: Registry, session: Session, space: Space, metric: Metric) -> None:
        self._registry, self.session, self.space, self._metric = registry, session, space, metric
        # The first event's hash tells catalogs apart that share a home folder and a space.
        digest = digest_of([metric.to_json(), vectors.event_hash_at(session, 1)])
        settings = registry.settings
        seq = vectors.last_seq(session)
        head = vectors.event_hash_at(session, seq) or ""
        self._key = (str(settings.index_dir), repr(settings.index), space.digest, digest)
        self.ahead = False
        self._reading = threading.Lock()
        with _SHELF.opening(self._key):
            last = _SHELF.last(self._key)
            size = vectors.count(session, space.id, most=FAISS_ROWS) if last is None else last.index.size
            self._engine = engine_for(
                settings.index, settings.index_dir, space.digest, digest, size=size, source=self._exact
            )
            self._stamp = Stamp(space.digest, digest, seq, self._engine.kind, 0, head)
            if last is not None and (last.stamp.seq, last.stamp.head) == (seq, head):
                self._asking, self.index = last.asking, last.index
                return
            self._asking, self._mark = threading.Lock(), self._engine.mark()
            self.index = self._topped(last) or self._kept() or self._by_another() or self.rebuild()
            self._shelve()

    def ask(self, question: Callable[[VectorIndex], Answer]) -> Answer:
        """The index's answer; from one made again when this one turns out to be damaged."""
        try:
            with self._asking, self._reading_here(self.index):
                return question(self.index)
        except IntegrityError:
            # The vectors of a large index are checked only as they are read.
            _SHELF.drop(self._key)
            return question(self.rebuild())

    @contextmanager
    def _reading_here(self, index: VectorIndex) -> Iterator[None]:
        """Short rows of an index stand for what this snapshot has meanwhile: others use it beside other snapshots."""
        if not isinstance(index, SegmentedIndex):
            yield
            return
        index.read_from(self._exact)
        try:
            yield
        finally:
            index.read_from(None)

    def _exact(self, ids: NDArray[np.int64]) -> Batch:
        """The vectors of those versions as this snapshot has them: what short rows stand for."""
        with self._reading:  # a session belongs to one thread at a time, and searches have several
            found = vectors.of_versions(self.session, self.space.id, ids)
        return found.ids, self._metric.unit(found.matrix.reshape(len(found.ids), self.space.components))

    def _shelve(self) -> None:
        """Keep what was opened for the next search. What a server holds others may change under it."""
        if isinstance(self.index, SegmentedIndex):
            self.index.read_from(None)
        if not self.ahead and self._engine.settled:
            _SHELF.put(
                self._key, _Opened(replace(self._stamp, size=self.index.size), self.index, self._mark, self._asking)
            )

    def optimize(self) -> Optimized:
        """See ``optimize``."""
        _SHELF.drop(self._key)
        if self.index.pending and not self.ahead:
            with self._asking, self._reading_here(self.index):
                self._engine.keep(self.index, self._stamp)
        pieces, rows = self._engine.optimize() or (None, None)
        return Optimized(self.space.ref, self._engine.kind, pieces, rows)

    def _topped(self, last: _Opened | None) -> VectorIndex | None:
        """What this process has open, topped up, over the same segments; whoever still searches in it goes on
        undisturbed. None when something else is kept on disk now."""
        if last is None or last.mark is None or last.mark != self._mark or last.stamp.seq > self._stamp.seq:
            return None
        index = self._from(cast(SegmentedIndex, last.index).copy(), last.stamp)
        if index is not None:
            self._asking = last.asking  # codes are read by one search at a time, whichever state it is of
        return index

    def _by_another(self) -> VectorIndex | None:
        """What another process was just writing, once it has; None when nobody was."""
        if not self._engine.wait():
            return None
        self._mark = self._engine.mark()
        return self._kept()

    def _kept(self) -> VectorIndex | None:
        """The index on disk, topped up; None when there is none that can be used."""
        found = self._engine.open()
        if found is None:
            return None
        index, stamp = found
        if stamp.seq > self._stamp.seq:
            with self._registry.catalog.read() as latest:
                self.ahead = vectors.event_hash_at(latest, stamp.seq) == stamp.head
            return index if self.ahead else None
        return self._from(index, stamp)

    def _from(self, index: VectorIndex, stamp: Stamp) -> VectorIndex | None:
        """An index of an earlier state topped up; None when that state is not of this catalog's."""
        if vectors.event_hash_at(self.session, stamp.seq) != (stamp.head or None):
            return None  # of events that this catalog, restored from a backup since, does not have
        if stamp.seq == self._stamp.seq:
            return index
        try:
            changes = vectors.changed_since(self.session, self.space.id, stamp.seq)
            index, topped = store.sync_index(index, stamp, _rows(changes, self._metric), self._stamp.seq)
            if store.worth_saving(index, stamp.size):
                # a cache that cannot be written costs time, not truth
                with suppress(StorageError), self._reading_here(index):
                    if self._engine.keep(index, replace(topped, head=self._stamp.head)):
                        self._mark = self._engine.mark()
                        index = self._reopened(index)
        except IntegrityError:
            return None
        return index

    def _reopened(self, index: VectorIndex) -> VectorIndex:
        """The index as it was just kept: what was added lies in a segment with codes, and is no longer read in full at
        every question. What a server holds is the same before and after."""
        if not self._engine.settled:
            return index
        found = self._engine.open()
        return index if found is None or found[1].seq != self._stamp.seq else found[0]

    def rebuild(self) -> VectorIndex:
        """Make the index again from the catalog, in place of whatever is kept."""

        def rows() -> Iterator[Batch]:
            for batch in vectors.batches(self.session, self.space.id):
                yield batch.ids, self._metric.unit(batch.matrix)

        self.ahead = False
        try:
            self._engine.drop()
            self._asking = threading.Lock()
            self.index, _ = self._engine.build(self.space.components, self._stamp, rows())
        except StorageError:
            self.index = self._engine.empty(self.space.components)
            for ids, units in rows():
                self.index.add(ids, units)
        self._mark = self._engine.mark()
        return self.index


def blocked(
    session: Session,
    space: Space,
    metric: Metric,
    coordinates: NDArray[np.float32],
    allowed: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Version ids (m,) and scores (m,) of the blocked versions, which no index holds, against one point (k,); only
    those in ``allowed`` when it is given."""
    rows = vectors.matrix(session, space.id, states=(VersionState.BLOCKED,))
    chosen = np.ones(len(rows.ids), bool) if allowed is None else np.isin(rows.ids, allowed)
    if not chosen.any():
        return rows.ids[chosen], np.zeros(0, np.float32)
    scores = metric.unit(rows.matrix[chosen]) @ metric.unit(coordinates)
    return rows.ids[chosen], scores.astype(np.float32)


def _rows(changes: vectors.Changes, metric: Metric) -> Iterator[store.Change]:
    if len(changes.present.ids):
        units = metric.unit(changes.present.matrix)
        yield from ((int(i), unit) for i, unit in zip(changes.present.ids, units, strict=True))
    yield from ((int(i), None) for i in changes.gone)
