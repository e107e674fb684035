"""Coordinates as arrays: all of a space, in batches, or what changed since an index was last brought up to date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ARRAY, BigInteger, Select, bindparam, column, func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import SERVED, Coordinates, Version
from w2w_registry.catalog.event_log import ChainHead, Event
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.spaces import Space
from w2w_registry.records import VersionState

_BATCH = 4096


@dataclass(frozen=True)
class Vectors:
    """``ids``: int64 (n,) of versions, ascending; ``matrix``: float32 (n, k)."""

    ids: NDArray[np.int64]
    matrix: NDArray[np.float32]


@dataclass(frozen=True)
class Changes:
    """What an index of the state after event ``since`` lacks of the state after event ``seq``.

    ``present`` is to be added or replaced, ``gone`` (int64) removed; ids in ``gone`` may never have been there.
    """

    seq: int
    present: Vectors
    gone: NDArray[np.int64]


def pack(coordinates: NDArray[np.float32]) -> tuple[bytes, str]:
    """The bytes of coordinates as stored (float32 little-endian) and their digest (SHA-256, hex)."""
    data = np.ascontiguousarray(coordinates, dtype="<f4").tobytes()
    return data, hashlib.sha256(data).hexdigest()


def unpack(data: bytes) -> NDArray[np.float32]:
    """Coordinates (k,) from their stored bytes."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def coordinates_of(session: Session, space_id: int, version_ids: Iterable[int]) -> dict[int, NDArray[np.float32]]:
    """Coordinates (k,) in a space of those of the versions that have some there, whatever their state."""
    found: dict[int, NDArray[np.float32]] = {}
    wanted = sorted(set(version_ids))
    for start in range(0, len(wanted), 500):
        query = select(Coordinates.version_id, Coordinates.data).where(
            Coordinates.space_id == space_id, Coordinates.version_id.in_(wanted[start : start + 500])
        )
        found.update((version, unpack(data)) for version, data in session.execute(query))
    return found


def of_versions(session: Session, space_id: int, version_ids: NDArray[np.int64]) -> Vectors:
    """Coordinates in a space of those of the versions (distinct) that have some there, whatever their state. Every
    query of a large index asks for a dozen, so that the statement is made once."""
    ids, postgres = version_ids.tolist(), session.get_bind().dialect.name == "postgresql"
    asked = {"space": space_id, "ids": ids if postgres else json.dumps(ids)}
    found = session.connection().execute(_of_versions(postgres=postgres), asked).all()
    return _vectors([row.version_id for row in found], [row.data for row in found])


@cache
def _of_versions(*, postgres: bool) -> Select[Any, Any]:
    each = (
        func.unnest(bindparam("ids", type_=ARRAY(BigInteger)), type_=BigInteger).column_valued("n")
        if postgres
        else func.json_each(bindparam("ids")).table_valued(column("value", BigInteger)).c.value
    )
    return (
        select(Coordinates.version_id, Coordinates.data)
        .where(Coordinates.space_id == bindparam("space"), Coordinates.version_id.in_(select(each)))
        .order_by(Coordinates.version_id)
    )


def count(
    session: Session, space_id: int, states: Collection[VersionState] = SERVED, *, most: int | None = None
) -> int:
    """How many versions in these states have coordinates in the space; counted up to ``most``."""
    there = select(Coordinates.version_id).join(Coordinates.version)
    rows = there.where(Coordinates.space_id == space_id, Version.state.in_(states)).limit(most).subquery()
    return session.scalar(select(func.count()).select_from(rows)) or 0


def ids(session: Session, space_id: int, states: Collection[VersionState] = SERVED) -> NDArray[np.int64]:
    """Ids (n,) of the versions in these states that have coordinates in the space, ascending."""
    query = (
        select(Coordinates.version_id)
        .join(Coordinates.version)
        .where(Coordinates.space_id == space_id, Version.state.in_(states))
        .order_by(Coordinates.version_id)
    )
    return np.fromiter(session.scalars(query.execution_options(yield_per=_BATCH)), np.int64)


@once
def event_hash_at(session: Session, seq: int) -> str | None:
    """Hash of that event as this snapshot has it; None when there is no such event."""
    return session.scalar(select(Event.hash).where(Event.seq == seq))


def batches(
    session: Session, space_id: int, *, states: Collection[VersionState] = SERVED, rows: int = _BATCH
) -> Iterator[Vectors]:
    """All coordinates of a space by ascending version id, at most ``rows`` at a time."""
    after = 0
    while True:
        # by key, not by cursor: nothing is buffered beyond one batch, on either database
        query = (
            select(Coordinates.version_id, Coordinates.data)
            .join(Coordinates.version)
            .where(Coordinates.space_id == space_id, Coordinates.version_id > after, Version.state.in_(states))
            .order_by(Coordinates.version_id)
            .limit(rows)
        )
        found = session.execute(query).all()
        if not found:
            return
        yield _vectors([row.version_id for row in found], [row.data for row in found])
        after = found[-1].version_id


def matrix(session: Session, space_id: int, *, states: Collection[VersionState] = SERVED) -> Vectors:
    """All coordinates of a space at once; (0, 0) when there are none."""
    if VersionState.ACTIVE not in states:
        found = coordinates_of(session, space_id, _in_states(session, states))
        order = sorted(found)
        return Vectors(np.array(order, np.int64), np.stack([found[i] for i in order])) if order else _vectors([], [])
    size, start, parts = count(session, space_id, states), 0, None
    for batch in batches(session, space_id, states=states):
        if parts is None:
            parts = Vectors(np.empty(size, np.int64), np.empty((size, batch.matrix.shape[1]), np.float32))
        stop = start + len(batch.ids)
        parts.ids[start:stop], parts.matrix[start:stop] = batch.ids, batch.matrix
        start = stop
    return parts or _vectors([], [])


def _in_states(session: Session, states: Collection[VersionState]) -> list[int]:
    """Ids of the versions in states that few are in, placed in a space or in none: looked up in the index, where a
    space's coordinates would each be asked for the state of their version."""
    found: list[int] = []
    for space_id in (None, *session.scalars(select(Space.id))):
        query = select(Version.id).where(Version.space_id == space_id, Version.state.in_(states))
        found += session.scalars(query)
    return found


@once
def last_seq(session: Session) -> int:
    """Number of the last event: what an index made of this snapshot is stamped with."""
    return session.scalar(select(ChainHead.seq)) or 0


def changed_since(session: Session, space_id: int, since: int, *, states: Collection[VersionState] = SERVED) -> Changes:
    """What changed in a space after event ``since``: versions added, blocked, unblocked, removed, erased."""
    query = (
        select(Version.id, Version.state, Coordinates.data)
        .outerjoin(Coordinates, (Coordinates.version_id == Version.id) & (Coordinates.space_id == space_id))
        .where(Version.changed_seq > since)
        .order_by(Version.id)
    )
    ids: list[int] = []
    data: list[bytes] = []
    gone: list[int] = []
    for version, state, blob in session.execute(query.execution_options(yield_per=_BATCH)):
        if blob is not None and state in states:
            ids.append(version)
            data.append(blob)
        else:
            gone.append(version)
    return Changes(last_seq(session), _vectors(ids, data), np.array(gone, dtype=np.int64))


def _vectors(ids: list[int], data: list[bytes]) -> Vectors:
    if not ids:
        return Vectors(np.empty(0, np.int64), np.empty((0, 0), np.float32))
    joined = np.frombuffer(b"".join(data), dtype="<f4").reshape(len(ids), -1)
    return Vectors(np.array(ids, dtype=np.int64), joined.astype(np.float32, copy=False))
