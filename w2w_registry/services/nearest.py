"""The index of a space, always as new as the catalog: loaded, compared by its stamp, topped up or rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from w2w_registry.catalog import vectors
from w2w_registry.catalog.models import Event, Space
from w2w_registry.errors import IntegrityError, StorageError
from w2w_registry.index import store
from w2w_registry.index.factory import choose_kind, open_index
from w2w_registry.index.protocol import Stamp, VectorIndex
from w2w_registry.records import VersionState, digest_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.metrics import Metric, cosine

_WORTH_SAVING = 64
"""Rows topped up before the index is written again: fewer are cheaper to read from SQL each time."""


@dataclass(frozen=True)
class Nearest:
    """The index of one space under its metric, over the versions in service."""

    index: VectorIndex
    metric: Metric

    def search(
        self, coordinates: NDArray[np.float32], limit: int, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Version ids (q, m) and scores (q, m) nearest to coordinates (q, k)."""
        return self.index.search(self.metric.unit(coordinates), limit, allowed=allowed)


def metric_of(space: Space) -> Metric:
    """The metric a space compares with; plain cosine when none was chosen."""
    return Metric.from_json(space.metric) if space.metric else cosine()


def open_nearest(registry: Registry, session: Session, space: Space) -> Nearest:
    """The up-to-date index of ``space`` as the session's snapshot sees the catalog."""
    metric = metric_of(space)
    # The first event's hash tells catalogs apart that share a home folder and a space.
    first = session.scalar(select(Event.hash).where(Event.seq == 1))
    metric_digest = digest_of([metric.to_json(), first])
    seq = vectors.last_seq(session)
    size = vectors.count(session, space.id)
    kind = choose_kind(str(registry.settings.index.get("kind", "auto")), size)
    folder = store.folder_for(registry.settings.index_dir, space.digest, metric_digest, kind)
    fresh = Stamp(space.digest, metric_digest, 0, kind, 0)
    found = store.load(folder)
    if found is not None and _usable(found[1], fresh, seq):
        try:
            index, stamp = found
            if stamp.seq == seq:
                return Nearest(index, metric)
            changes = vectors.changed_since(session, space.id, stamp.seq)
            touched = len(changes.present.ids) + len(changes.gone)
            index, stamp = store.sync_index(index, stamp, _rows(changes, metric), seq)
            if touched >= _WORTH_SAVING:
                _save(folder, index, stamp)
            return Nearest(index, metric)
        except IntegrityError:
            store.discard(folder)
    index = open_index(kind, dim=space.components, size=size)
    for batch in vectors.batches(session, space.id):
        index.add(batch.ids, metric.unit(batch.matrix))
    if size >= _WORTH_SAVING:
        _save(folder, index, Stamp(space.digest, metric_digest, seq, kind, size))
    return Nearest(index, metric)


def blocked(
    session: Session, space: Space, metric: Metric, coordinates: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Version ids (m,) and scores (m,) of the blocked versions, which no index holds, against one point (k,)."""
    rows = vectors.matrix(session, space.id, states=(VersionState.BLOCKED,))
    if not len(rows.ids):
        return rows.ids, np.zeros(0, np.float32)
    return rows.ids, (metric.unit(rows.matrix) @ metric.unit(coordinates)).astype(np.float32)


def _usable(stamp: Stamp, wanted: Stamp, seq: int) -> bool:
    same = (stamp.space_digest, stamp.metric_digest) == (wanted.space_digest, wanted.metric_digest)
    # A stamp from the future belongs to a catalog that was restored from a backup since.
    return same and stamp.seq <= seq


def _rows(changes: vectors.Changes, metric: Metric) -> Iterator[store.Change]:
    if len(changes.present.ids):
        units = metric.unit(changes.present.matrix)
        yield from ((int(i), unit) for i, unit in zip(changes.present.ids, units, strict=True))
    yield from ((int(i), None) for i in changes.gone)


def _save(folder: Path, index: VectorIndex, stamp: Stamp) -> None:
    with suppress(StorageError):  # a cache that cannot be written costs time, not truth
        store.save(folder, index, stamp)
