"""Points of a weight space with what is known of them: the newest of each identity, their labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Subquery, func, select
from sqlalchemy.orm import Session, aliased

from w2w_registry.catalog.assets import SERVED, Coordinates, Identity, Label, Version
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.rows import listed
from w2w_registry.catalog.vectors import unpack
from w2w_registry.records import OperationKind, VersionState


class Placed(NamedTuple):
    """A version and its coordinates (k,) in a space."""

    version: Version
    point: NDArray[np.float32]


def placed_ids(session: Session, space_id: int) -> set[int]:
    """Versions that have coordinates in a space, in any state."""
    return set(session.scalars(select(Coordinates.version_id).where(Coordinates.space_id == space_id)))


def placed_versions(session: Session, space_id: int, *, lacking: int | None = None) -> list[Placed]:
    """Versions of a space that a search finds, with their points, oldest first; only those without coordinates in
    ``lacking``."""
    query = (
        select(Version, Coordinates.data)
        .join(Coordinates, Coordinates.version_id == Version.id)
        .where(Coordinates.space_id == space_id, Version.state.in_(SERVED))
        .order_by(Version.id)
    )
    have = set() if lacking is None else placed_ids(session, lacking)
    return [Placed(version, unpack(data)) for version, data in session.execute(query) if version.id not in have]


def newest_ids(session: Session, space_id: int) -> list[int]:
    """Ids of the newest active version of every identity in a space, ascending."""
    newest = _newest(space_id)
    query = (
        select(Version.id)
        .join(newest, (newest.c.identity_id == Version.identity_id) & (newest.c.number == Version.number))
        .order_by(Version.id)
    )
    return list(session.scalars(query))


def spread_ids(session: Session, space_id: int, most: int, before: int | None = None) -> list[int]:
    """Ids of at most ``most`` newest active versions of identities in a space, ascending: those that come first at or
    after evenly spaced ids. As many look-ups as are asked for, however many there are.

    Args:
        before: only versions of a lower id are seen.
    """
    placed = select(Coordinates.version_id).where(Coordinates.space_id == space_id)
    if before is not None:
        placed = placed.where(Coordinates.version_id < before)
    first = session.scalar(placed.order_by(Coordinates.version_id).limit(1))
    last = session.scalar(placed.order_by(Coordinates.version_id.desc()).limit(1))
    if first is None or last is None:
        return []
    probes = listed(session, np.linspace(first, last, most).astype(int).tolist()).subquery()
    at = placed.where(Coordinates.version_id >= probes.c.n).order_by(Coordinates.version_id).limit(1)
    found = select(at.correlate(probes).scalar_subquery().label("id")).select_from(probes).distinct().subquery()
    newer = aliased(Version)
    later = placed.where(
        newer.identity_id == Version.identity_id,
        newer.number > Version.number,
        newer.state == VersionState.ACTIVE,
        Coordinates.version_id == newer.id,
    )
    query = (
        select(Version.id)
        .join(found, found.c.id == Version.id)
        .where(Version.state == VersionState.ACTIVE, ~later.correlate(Version).exists())
        .order_by(Version.id)
    )
    return list(session.scalars(query))


def newest_points(session: Session, space_id: int) -> dict[int, NDArray[np.float32]]:
    """Version id -> point, of the newest active version of every identity in a space, by id."""
    newest = _newest(space_id)
    rows = session.execute(
        select(Version.id, Coordinates.data)
        .join(newest, (newest.c.identity_id == Version.identity_id) & (newest.c.number == Version.number))
        .join(Coordinates, (Coordinates.version_id == Version.id) & (Coordinates.space_id == space_id))
        .order_by(Version.id)
    )
    return {version: unpack(data) for version, data in rows}


def _newest(space_id: int) -> Subquery:
    """Identity and number of the newest active version of every identity in a space."""
    return (
        select(Version.identity_id, func.max(Version.number).label("number"))
        .join(Coordinates, (Coordinates.version_id == Version.id) & (Coordinates.space_id == space_id))
        .where(Version.state == VersionState.ACTIVE)
        .group_by(Version.identity_id)
        .subquery()
    )


def repeats(session: Session, space_id: int, limit: int) -> list[tuple[int, int]]:
    """Pairs of versions of one identity that were each learned from somebody (imported, trained, inverted, pulled) and
    have coordinates in a space: the same person twice. At most ``limit``, one an identity."""
    learned = tuple(map(str, (OperationKind.IMPORT, OperationKind.TRAIN, OperationKind.INVERT, OperationKind.PULL)))
    found = (
        select(func.min(Version.id), func.max(Version.id))
        .join(Coordinates, (Coordinates.version_id == Version.id) & (Coordinates.space_id == space_id))
        .join(Operation, Operation.id == Version.operation_id)
        .where(Version.state == VersionState.ACTIVE, Operation.kind.in_(learned))
        .group_by(Version.identity_id)
        .having(func.count() > 1)
        .order_by(Version.identity_id)
        .limit(limit)
    )
    return [(first, last) for first, last in session.execute(found)]


def points_named(session: Session, space_id: int, name: str) -> list[NDArray[np.float32]]:
    """Points of an identity's active versions that are in a space, the oldest first."""
    query = (
        select(Coordinates.data)
        .join(Version, (Version.id == Coordinates.version_id) & (Coordinates.space_id == space_id))
        .join(Identity, Identity.id == Version.identity_id)
        .where(Identity.name == name, Version.state == VersionState.ACTIVE)
        .order_by(Version.number)
    )
    return [unpack(data) for data in session.scalars(query)]


def number_labels(session: Session, space_id: int) -> list[tuple[int, str, float]]:
    """(version id, label, number) of every version with coordinates in a space, where the label is a number."""
    query = (
        select(Label.version_id, Label.name, Label.number)
        .join(Coordinates, Coordinates.version_id == Label.version_id)
        .where(Coordinates.space_id == space_id, Label.number.is_not(None))
    )
    return [(version, name, number) for version, name, number in session.execute(query) if number is not None]
