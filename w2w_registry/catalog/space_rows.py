"""Weight spaces and the directions in them, as rows."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import SERVED, Coordinates, Version
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.spaces import Direction, Space
from w2w_registry.records import VersionState


@once
def all_spaces(session: Session) -> list[Space]:
    """Every space, by name and number."""
    return list(session.scalars(select(Space).order_by(Space.name, Space.number)))


def space_with_digest(session: Session, digest: str) -> Space | None:
    """The space that is exactly this one."""
    return session.scalar(select(Space).where(Space.digest == digest))


def next_space_number(session: Session, name: str) -> int:
    """What the next space of a name is numbered."""
    return 1 + (session.scalar(select(func.max(Space.number)).where(Space.name == name)) or 0)


def directions_in(session: Session, space_id: int) -> list[Direction]:
    """Every direction of a space, by name."""
    return list(session.scalars(select(Direction).where(Direction.space_id == space_id).order_by(Direction.name)))


def find_direction(session: Session, space_id: int, name: str) -> Direction | None:
    """The direction of this name in a space."""
    return session.scalar(select(Direction).where(Direction.space_id == space_id, Direction.name == name))


def knows_direction(session: Session, digest: str) -> bool:
    """Whether a direction is still here as it was."""
    return session.scalar(select(Direction.id).where(Direction.digest == digest).limit(1)) is not None


def identities_by_space(session: Session, states: Collection[VersionState] = SERVED) -> dict[int, int]:
    """How many identities have a version in these states with coordinates in each space; none = not in it."""
    query = select(Coordinates.space_id, func.count(Version.identity_id.distinct())).join(Coordinates.version)
    return dict(session.execute(query.where(Version.state.in_(states)).group_by(Coordinates.space_id)).tuples().all())
