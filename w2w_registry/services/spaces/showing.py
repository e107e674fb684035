"""What is told of weight spaces: a line of each, and everything about one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.resolve import space_for
from w2w_registry.catalog.space_rows import all_spaces, identities_by_space
from w2w_registry.catalog.spaces import Space
from w2w_registry.records import Result
from w2w_registry.services.registry import Registry


@dataclass(frozen=True, eq=False)
class SpaceRow(Result):
    """A weight space and how many identities are placed in it."""

    space: str
    digest: str
    base_model: str
    base_revision: str | None
    dim: int
    components: int
    rank: int
    alpha: float
    fit_size: int | None
    gauge: str
    identities: int
    metric: str
    state: str
    created: datetime


@dataclass(frozen=True, eq=False)
class SpaceShown(SpaceRow):
    """Everything that is told of one space: what it was fitted on, explained variance, calibration, software."""

    layout_digest: str
    modules: int
    fit_set_digest: str | None
    explained_variance: float | None
    explained_variance_first_10: list[float]
    threshold: float | None
    false_match_rate: float | None
    true_match_rate: float | None
    residual_of_new_loras: Mapping[str, float] | None
    software: Mapping[str, Any]
    refit_of: str | None
    operation: str


def list_spaces(registry: Registry) -> list[SpaceRow]:
    """Every space, with how many identities are served from it."""
    with registry.catalog.read() as session:
        counts = identities_by_space(session)
        return [_summary(row, counts.get(row.id, 0)) for row in all_spaces(session)]


def space_refs(registry: Registry) -> list[str]:
    """The reference of every space, in the order of ``list_spaces``."""
    with registry.catalog.read() as session:
        return [row.ref for row in all_spaces(session)]


def show_space(registry: Registry, ref: str) -> SpaceShown:
    """One space: what it was fitted on, explained variance, metric, calibration, software.

    Raises:
        NotFound: with near names. BadName: not a reference.
    """
    with registry.catalog.read() as session:
        return _shown(session, space_for(session, ref), identities_by_space(session))


def space_versions(registry: Registry, name: str) -> list[SpaceShown]:
    """Every version of the space of this name, the oldest first; none of a name that is not there."""
    with registry.catalog.read() as session:
        counts = identities_by_space(session)
        return [_shown(session, row, counts) for row in all_spaces(session) if row.name == name]


def _shown(session: Session, row: Space, counts: Mapping[int, int]) -> SpaceShown:
    variance = row.explained_variance or []
    parent = None if row.parent_id is None else session.get_one(Space, row.parent_id).ref
    return SpaceShown(
        **_summary(row, counts.get(row.id, 0)),
        layout_digest=row.layout_digest,
        modules=len(row.layout["tensors"]) // 2,
        fit_set_digest=row.fit_set_digest,
        explained_variance=float(sum(variance)) if variance else None,
        explained_variance_first_10=[round(float(v), 5) for v in variance[:10]],
        threshold=row.calibration.get("threshold"),
        false_match_rate=row.calibration.get("false_match_rate"),
        true_match_rate=row.calibration.get("true_match_rate"),
        residual_of_new_loras=row.calibration.get("residual"),
        software=row.software,
        refit_of=parent,
        operation=row.operation_id,
    )


def _summary(row: Space, identities: int) -> SpaceRow:
    return SpaceRow(
        space=row.ref,
        digest=row.digest,
        base_model=row.base_model,
        base_revision=row.base_revision,
        dim=row.dim,
        components=row.components,
        rank=row.rank,
        alpha=row.alpha,
        fit_size=row.fit_size,
        gauge=row.software.get("gauge", "raw"),
        identities=identities,
        metric=row.metric.get("name", "cosine"),
        state=str(row.state),
        created=row.created,
    )
