"""What models are compared by beside their coordinates: the weights sketch of a version, and finding near ones.

A database cannot compare vectors, but it can look up numbers: ``norm`` and ``key_*`` of a sketch, which equal models
share up to a tolerance, leave a handful of rows to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ForeignKey, Index, LargeBinary, and_, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from w2w_registry.catalog.assets import Version
from w2w_registry.catalog.base import Base
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.types import Number, Words
from w2w_registry.records import VersionState


class WeightsSketch(Base):
    """A random projection of a version's ΔW: ``data`` is float32 little-endian, ``kind`` how it was drawn.

    ``norm``: ‖ΔW‖. ``key_a`` to ``key_c``: numbers equal models share up to rounding, to search by.
    """

    __tablename__ = "weights_sketch"
    __table_args__ = (Index("ix_weights_sketch_key_a", "key_a"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(Words)
    norm: Mapped[float] = mapped_column(Number)
    key_a: Mapped[float] = mapped_column(Number)
    key_b: Mapped[float] = mapped_column(Number)
    key_c: Mapped[float] = mapped_column(Number)
    data: Mapped[bytes] = mapped_column(LargeBinary)

    version: Mapped[Version] = relationship()


@dataclass(frozen=True)
class StoredSketch:
    """A row of ``weights_sketch`` with the state of its version."""

    version_id: int
    norm: float
    data: bytes


def near_sketches(
    session: Session,
    kind: str,
    norm: float,
    keys: Sequence[float],
    states: Sequence[VersionState],
    *,
    room: float,
) -> list[StoredSketch]:
    """Sketches whose norm and keys lie within ``room`` (relative, absolute) of these, the oldest version first."""
    columns = (WeightsSketch.key_a, WeightsSketch.key_b, WeightsSketch.key_c)
    query = (
        select(WeightsSketch.version_id, WeightsSketch.norm, WeightsSketch.data)
        .join(Version, Version.id == WeightsSketch.version_id)
        .where(
            WeightsSketch.kind == kind,
            WeightsSketch.norm.between(norm * (1 - room), norm * (1 + room)),
            *(column.between(key - room, key + room) for column, key in zip(columns, keys, strict=True)),
            Version.state.in_(states),
        )
        .order_by(WeightsSketch.version_id)
    )
    return [StoredSketch(*row) for row in session.execute(query)]


def near_any(
    session: Session,
    kind: str,
    wanted: Sequence[tuple[float, Sequence[float]]],
    states: Sequence[VersionState],
    *,
    room: float,
) -> list[list[StoredSketch]]:
    """As ``near_sketches`` for many (norm, keys) at once, at one query per fifty."""
    columns = (WeightsSketch.key_a, WeightsSketch.key_b, WeightsSketch.key_c)
    found: list[list[StoredSketch]] = []
    for start in range(0, len(wanted), 50):
        part = wanted[start : start + 50]
        boxes = [
            and_(
                WeightsSketch.norm.between(norm * (1 - room), norm * (1 + room)),
                *(column.between(key - room, key + room) for column, key in zip(columns, keys, strict=True)),
            )
            for norm, keys in part
        ]
        query = (
            select(WeightsSketch.version_id, WeightsSketch.norm, WeightsSketch.data, *columns)
            .join(Version, Version.id == WeightsSketch.version_id)
            .where(WeightsSketch.kind == kind, or_(*boxes), Version.state.in_(states))
            .order_by(WeightsSketch.version_id)
        )
        rows = session.execute(query).all()
        for norm, keys in part:
            found.append([
                StoredSketch(i, size, data)
                for i, size, data, *numbers in rows
                if abs(size - norm) <= room * norm
                and all(abs(a - b) <= room for a, b in zip(numbers, keys, strict=True))
            ])  # fmt: skip
    return found


def every_sketch(session: Session, kind: str) -> list[StoredSketch]:
    """Sketches of every version in the registry, the oldest first."""
    query = (
        select(WeightsSketch.version_id, WeightsSketch.norm, WeightsSketch.data)
        .join(Version, Version.id == WeightsSketch.version_id)
        .where(WeightsSketch.kind == kind, Version.state.in_(PRESENT))
        .order_by(WeightsSketch.version_id)
    )
    return [StoredSketch(*row) for row in session.execute(query)]


def sketch_numbers(session: Session, kind: str, after: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What sketches are searched by, of the versions beyond id ``after``, by id: ids (n,), and norm and keys (n, 4)."""
    columns = (WeightsSketch.norm, WeightsSketch.key_a, WeightsSketch.key_b, WeightsSketch.key_c)
    query = select(WeightsSketch.version_id, *columns).where(
        WeightsSketch.kind == kind, WeightsSketch.version_id > after
    )
    found: list[NDArray[np.float64]] = []
    result = session.connection().execute(query.order_by(WeightsSketch.version_id).execution_options(yield_per=10_000))
    for rows in result.partitions():
        found.append(np.array([tuple(row) for row in rows], np.float64))  # ids are exact in a double up to 2^53
    table = np.concatenate(found) if found else np.zeros((0, 5))
    return table[:, 0].astype(np.int64), table[:, 1:]


def sketches_of(session: Session, kind: str, version_ids: Iterable[int]) -> dict[int, StoredSketch]:
    """Sketches of those of the versions that have one."""
    found: dict[int, StoredSketch] = {}
    for chunk in chunked(version_ids):
        query = select(WeightsSketch.version_id, WeightsSketch.norm, WeightsSketch.data).where(
            WeightsSketch.kind == kind, WeightsSketch.version_id.in_(chunk)
        )
        found.update((row.version_id, StoredSketch(*row)) for row in session.execute(query))
    return found


def without_sketch(session: Session, kind: str, after: int, limit: int) -> list[Version]:
    """Versions beyond id ``after`` that could have a sketch of this kind and have none, by id, at most ``limit``."""
    has = select(WeightsSketch.version_id).where(WeightsSketch.kind == kind)
    query = (
        select(Version)
        .where(
            Version.id > after, Version.id.not_in(has), Version.state != VersionState.ERASED, Version.adapter.is_(None)
        )
        .order_by(Version.id)
        .limit(limit)
    )
    return list(session.scalars(query))
