"""An edit looked at before it is recorded: where it leads, how usual that is, and which real person is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Use
from w2w_registry.records import Result
from w2w_registry.services.recording.nearest import open_nearest
from w2w_registry.services.recording.sources import Source, Vector, open_space_of, source
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.edit import Amounts, plan_move, said_far
from w2w_registry.services.synthesis.new_versions import Permission
from w2w_registry.space import sampling

LOOKED_AT: Final = 32


@dataclass(frozen=True, eq=False)
class Prospect(Result):
    """What an edit would give. ``typicality``: 1 is the middle of the space's people, large is unlike anybody.

    ``nearest``: the nearest version of somebody else (relatives of the start left out), with its score; ``same`` when
    that reaches the space's threshold.
    """

    ref: str
    space: str
    amounts: dict[str, float]
    typicality: float
    nearest: str | None
    score: float | None
    same: bool
    warnings: tuple[str, ...]


def prospect(registry: Registry, ref: str, amounts: Amounts) -> Prospect:
    """Where ``edit`` would lead; nothing is recorded. Permission is asked as for the edit and its pictures.

    Raises:
        NotFound, UsageError, ConsentDenied.
    """
    with registry.catalog.read() as session:
        start = source(session, version_for(session, ref))
        uses = [Use.EDIT, Use.GENERATE] if amounts else [Use.GENERATE]
        decisions = [Permission(use, versions=[start.version_id]).require(registry, session) for use in uses]
        row, space = open_space_of(registry, session, start.space_id)
        point, resolved, far = start.coordinates, {}, list[str]()
        if amounts:
            move = plan_move(session, row, space.component_std, start.coordinates, amounts, ())
            point, resolved = start.coordinates + move.delta, {k: float(v) for k, v in move.resolved.items()}
            far = said_far(start.coordinates, move, space.component_std)
        typical = float(sampling.typicality(point, space.component_std))
        near, score = _nearest_other(registry, session, row, start, point)
    threshold = row.calibration.get("threshold")
    same = threshold is not None and score is not None and score >= threshold
    said = [*(str(w) for d in decisions for w in d.warnings), *far]
    if same:
        said.append(f"this looks like {near}, a real entry of this registry")
    return Prospect(start.ref, row.ref, resolved, typical, near, score, same, tuple(dict.fromkeys(said)))


def _nearest_other(
    registry: Registry, session: Session, row: Space, start: Source, point: Vector
) -> tuple[str | None, float | None]:
    """The nearest version that is somebody else: neither the identity the edit starts from nor its relatives."""
    ids, scores = open_nearest(registry, session, row).search(point[None].astype(np.float32), LOOKED_AT)
    found = [(int(i), float(s)) for i, s in zip(ids[0], scores[0], strict=True) if i >= 0]
    versions = versions_by_id(session, {start.version_id, *(i for i, _ in found)})
    own = versions[start.version_id].identity_id
    family = {*walks.ancestor_ids(session, [start.version_id]), *walks.descendant_ids(session, [start.version_id])}
    refs = refs_of(session, versions)
    for i, score in found:
        if i in versions and versions[i].identity_id != own and i not in family:
            return str(refs[i]), score
    return None, None
