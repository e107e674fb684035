"""The index of a space, always as new as the catalog: loaded, compared by its stamp, topped up or rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from w2w_registry.catalog import vectors
from w2w_registry.catalog.models import Event, Space
from w2w_registry.errors import IntegrityError, StorageError
from w2w_registry.index import store
from w2w_registry.index.factory import choose_kind, open_index
from w2w_registry.index.milvus import MilvusTarget
from w2w_registry.index.protocol import Stamp, VectorIndex
from w2w_registry.records import VersionState, digest_of
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.metrics import Metric


@dataclass(frozen=True)
class Nearest:
    """The index of one space under its metric, over the versions in service."""

    metric: Metric
    _cache: _Cache

    def search(
        self, coordinates: NDArray[np.float32], limit: int, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Version ids (q, m) and scores (q, m) nearest to coordinates (q, k)."""
        units = self.metric.unit(coordinates)
        try:
            return self._cache.index.search(units, limit, allowed=allowed)
        except IntegrityError:
            # The vectors of a large index are checked only as they are read: make it again from the catalog.
            self._cache.rebuild()
            return self._cache.index.search(units, limit, allowed=allowed)


def open_nearest(registry: Registry, session: Session, space: Space) -> Nearest:
    """The up-to-date index of ``space`` as the session's snapshot sees the catalog."""
    metric = metric_of(space)
    return Nearest(metric, _Cache(registry, session, space, metric))


class _Cache:
    """The index as the session's snapshot has it: as it was kept, topped up, or made again."""

    def __init__(self, registry: Registry, session: Session, space: Space, metric: Metric) -> None:
        self._session, self._space, self._metric = session, space, metric
        # The first event's hash tells catalogs apart that share a home folder and a space.
        first = session.scalar(select(Event.hash).where(Event.seq == 1))
        digest = digest_of([metric.to_json(), first])
        options = registry.settings.index
        self._kind = choose_kind(str(options.get("kind", "auto")), vectors.count(session, space.id))
        self._milvus = (
            MilvusTarget.from_options(options, registry.settings.index_dir / "milvus.db")
            if self._kind == "milvus"
            else None
        )
        self._folder = store.folder_for(registry.settings.index_dir, space.digest, digest, self._kind)
        self._stamp = Stamp(space.digest, digest, vectors.last_seq(session), self._kind, 0)
        self.index = self._kept() or self.rebuild()

    def _kept(self) -> VectorIndex | None:
        """The index on disk, topped up; None when there is none that can be used."""
        found = store.load(self._folder, milvus=self._milvus)
        if found is None:
            return None
        index, stamp = found
        if stamp.seq > self._stamp.seq:
            # A stamp from the future belongs to a catalog that was restored from a backup since.
            return None
        if stamp.seq == self._stamp.seq:
            return index
        try:
            changes = vectors.changed_since(self._session, self._space.id, stamp.seq)
            saved = stamp.size
            index, stamp = store.sync_index(index, stamp, _rows(changes, self._metric), self._stamp.seq)
            if store.worth_saving(index, saved):
                with suppress(StorageError):  # a cache that cannot be written costs time, not truth
                    store.save(self._folder, index, stamp)
        except IntegrityError:
            return None
        return index

    def rebuild(self) -> VectorIndex:
        """Make the index again from the catalog, in place of whatever is kept."""
        rows = (
            (batch.ids, self._metric.unit(batch.matrix)) for batch in vectors.batches(self._session, self._space.id)
        )
        dim = self._space.components
        try:
            store.discard(self._folder, milvus=self._milvus)
            self.index, _ = store.build(self._folder, self._kind, dim, self._stamp, rows, milvus=self._milvus)
        except StorageError:
            self.index = open_index(self._kind, dim=dim, folder=self._folder, milvus=self._milvus)
            for batch in vectors.batches(self._session, self._space.id):
                self.index.add(batch.ids, self._metric.unit(batch.matrix))
        return self.index


def blocked(
    session: Session, space: Space, metric: Metric, coordinates: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Version ids (m,) and scores (m,) of the blocked versions, which no index holds, against one point (k,)."""
    rows = vectors.matrix(session, space.id, states=(VersionState.BLOCKED,))
    if not len(rows.ids):
        return rows.ids, np.zeros(0, np.float32)
    return rows.ids, (metric.unit(rows.matrix) @ metric.unit(coordinates)).astype(np.float32)


def _rows(changes: vectors.Changes, metric: Metric) -> Iterator[store.Change]:
    if len(changes.present.ids):
        units = metric.unit(changes.present.matrix)
        yield from ((int(i), unit) for i, unit in zip(changes.present.ids, units, strict=True))
    yield from ((int(i), None) for i in changes.gone)
