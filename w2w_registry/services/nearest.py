"""The index of a space, always as new as the catalog: loaded, compared by its stamp, topped up or rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.models import ChainHead, Coordinates, Event, Space, Version
from w2w_registry.errors import StorageError
from w2w_registry.index import store
from w2w_registry.index.factory import choose_kind, open_index
from w2w_registry.index.protocol import Stamp, VectorIndex
from w2w_registry.records import VersionState, digest_of
from w2w_registry.services.registry import Registry
from w2w_registry.services.versions import coordinates_from
from w2w_registry.space.metrics import Metric, cosine

_BATCH = 4096
_WORTH_SAVING = 64
"""Rows topped up before the index is written again: fewer are cheaper to read from SQL each time."""


@dataclass(frozen=True)
class Nearest:
    """The index of one space under its metric."""

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
    seq = session.scalar(select(ChainHead.seq)) or 0
    count = session.scalar(select(func.count()).where(Coordinates.space_id == space.id)) or 0
    kind = choose_kind(str(registry.settings.index.get("kind", "auto")), count)
    folder = store.folder_for(registry.settings.index_dir, space.digest, metric_digest, kind)
    found = store.load(folder)
    fresh = Stamp(space.digest, metric_digest, 0, kind, 0)
    if found is None or not _usable(found[1], fresh, seq):
        index, stamp = open_index(kind, dim=space.components, size=count), fresh
        known = 0
    else:
        index, stamp = found
        known = stamp.seq
    touched = 0

    def changes() -> Iterator[store.Change]:
        nonlocal touched
        for version, vector in _changes(session, space, metric, after=known):
            touched += 1
            yield version, vector

    if stamp.seq != seq:
        index, stamp = store.sync_index(index, stamp, changes(), seq)
    if touched >= _WORTH_SAVING:
        with suppress(StorageError):  # a cache that cannot be written costs time, not truth
            store.save(folder, index, stamp)
    return Nearest(index, metric)


def _usable(stamp: Stamp, wanted: Stamp, seq: int) -> bool:
    same = (stamp.space_digest, stamp.metric_digest) == (wanted.space_digest, wanted.metric_digest)
    # A stamp from the future belongs to another catalog, or to one restored from a backup.
    return same and stamp.seq <= seq


def _changes(session: Session, space: Space, metric: Metric, *, after: int) -> Iterator[store.Change]:
    """(version id, unit vector), or (version id, None) for one no longer served, of versions changed since."""
    mine = and_(Coordinates.version_id == Version.id, Coordinates.space_id == space.id)
    statement = select(Version.id, Version.state, Coordinates.data).order_by(Version.id)
    if after == 0:
        statement = statement.join(Coordinates, mine).where(Version.state == VersionState.ACTIVE)
    else:
        statement = statement.outerjoin(Coordinates, mine).where(Version.changed_seq > after)
    for rows in session.execute(statement.execution_options(yield_per=_BATCH)).partitions(_BATCH):
        served = [(v, data) for v, state, data in rows if state is VersionState.ACTIVE and data is not None]
        if served:
            units = metric.unit(np.stack([coordinates_from(data) for _, data in served]))
            yield from zip((v for v, _ in served), units, strict=True)
        kept = {v for v, _ in served}
        yield from ((v, None) for v, _, _ in rows if v not in kept)
