"""What models are compared by beside their coordinates: the weights sketch of a version, and finding near ones.

A database cannot compare vectors, but it can look up a number: near sketches lie in the same ``cell`` or in one of a
few that are known (``space.sketch``), and hardly any others do, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ForeignKey, Index, LargeBinary, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from w2w_registry.catalog.assets import Version
from w2w_registry.catalog.base import Base
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.rows import chunked, listed
from w2w_registry.catalog.types import BigInt, Number, Words
from w2w_registry.records import VersionState

_CELLS = 20_000  # looked into by one statement
_BLOCK = 4_096  # sketches held at once


class WeightsSketch(Base):
    """A random projection of a version's ΔW: ``data`` as ``space.sketch`` packs it, ``kind`` how it was drawn.

    ``norm``: ‖ΔW‖. ``cell``: what it is looked up by.
    """

    __tablename__ = "weights_sketch"
    __table_args__ = (Index("ix_weights_sketch_cell", "cell"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(Words)
    norm: Mapped[float] = mapped_column(Number)
    cell: Mapped[int] = mapped_column(BigInt)
    data: Mapped[bytes] = mapped_column(LargeBinary)


@dataclass(frozen=True)
class StoredSketch:
    """A row of ``weights_sketch`` with the state of its version."""

    version_id: int
    norm: float
    data: bytes


def sketches_in(
    session: Session, kind: str, cells: Iterable[int], states: Sequence[VersionState]
) -> dict[int, list[StoredSketch]]:
    """The sketches in these cells, of versions in these states, by cell, the oldest version first."""
    columns = (WeightsSketch.cell, WeightsSketch.version_id, WeightsSketch.norm, WeightsSketch.data)
    query = (
        select(*columns)
        .join(Version, Version.id == WeightsSketch.version_id)
        .where(WeightsSketch.kind == kind, Version.state.in_(states))
        .order_by(WeightsSketch.version_id)
    )
    found: dict[int, list[StoredSketch]] = {}
    for chunk in chunked(cells, _CELLS):
        rows = session.connection().execute(query.where(WeightsSketch.cell.in_(listed(session, chunk))))
        for cell, version_id, norm, data in rows:
            found.setdefault(cell, []).append(StoredSketch(version_id, norm, data))
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


def sketch_blocks(
    session: Session, kind: str, states: Sequence[VersionState]
) -> Iterator[tuple[list[int], list[bytes]]]:
    """The sketches of versions in these states, the oldest first, in blocks: version ids, and the data of each."""
    query = (
        select(WeightsSketch.version_id, WeightsSketch.data)
        .join(Version, Version.id == WeightsSketch.version_id)
        .where(WeightsSketch.kind == kind, Version.state.in_(states))
        .order_by(WeightsSketch.version_id)
    )
    rows = session.connection().execute(query, execution_options={"yield_per": _BLOCK})
    for block in rows.partitions():
        yield [row.version_id for row in block], [row.data for row in block]


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
