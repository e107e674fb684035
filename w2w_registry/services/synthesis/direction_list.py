"""Directions as the catalog has them: listed and shown, nothing computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from w2w_registry.catalog.models import Direction, Space
from w2w_registry.catalog.resolve import direction_named, space_for
from w2w_registry.catalog.space_rows import directions_in
from w2w_registry.records import Result
from w2w_registry.services.registry import Registry


@dataclass(frozen=True, eq=False)
class DirectionShown(Result):
    """A direction of a space: what it is of, how well it was found, and what else moves along it."""

    direction: str
    space: str
    attribute: str
    method: str
    quality: Mapping[str, Any]
    unit: float
    levels: list[float]
    kept: list[str]
    leakage: Mapping[str, float]
    digest: str
    created: datetime


def shown(row: Direction, space: Space) -> DirectionShown:
    """A row as it is shown."""
    told = {key: row.calibration[key] for key in ("unit", "levels", "kept")}
    told |= {key: getattr(row, key) for key in ("attribute", "method", "quality", "leakage", "digest", "created")}
    return DirectionShown(direction=row.name, space=space.ref, **told)


def show(registry: Registry, name: str, space_ref: str | None = None) -> DirectionShown:
    """One direction."""
    with registry.catalog.read() as session:
        space = space_for(session, space_ref)
        return shown(direction_named(session, space, name), space)


def list_directions(registry: Registry, space_ref: str | None = None) -> list[DirectionShown]:
    """Every direction of a space, by name."""
    with registry.catalog.read() as session:
        space = space_for(session, space_ref)
        return [shown(row, space) for row in directions_in(session, space.id)]
