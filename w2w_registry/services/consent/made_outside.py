"""Newcomers that were made outside this registry and not trained: somebody's model with noise, or mixed with another's.

Such a model may still draw somebody who refused, though it comes no nearer to them than strangers do. Strangers' own
trainings come as near, so it is asked only of what no training leaves (``space.ordinary``) and no record explains.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.membership import is_member
from w2w_registry.catalog.models import Version
from w2w_registry.consent.second_look import By
from w2w_registry.lora import Factors
from w2w_registry.records import OperationKind, VersionState
from w2w_registry.services.consent.places import Places
from w2w_registry.services.consent.second_look import Near
from w2w_registry.services.recording.equivalents import stored_likenesses
from w2w_registry.services.recording.versions import Activity, NewVersion
from w2w_registry.services.registry import Registry

_RECORDED: Final = frozenset(set(OperationKind) - {OperationKind.IMPORT, OperationKind.PULL})


def made_outside(
    session: Session,
    places: Places,
    spaces: Collection[int],
    new: NewVersion,
    activity: Activity | None,
    near: Sequence[Near],
) -> bool:
    """Whether a newcomer's weights are no training's by any of the ``spaces`` that it was not fitted into.

    Not asked of what an operation of this registry made, what a release says its registry made (it has no residual),
    nor of the model of a version that is in service here.
    """
    kind = OperationKind.IMPORT if activity is None else activity.kind
    if new.likeness.factors is None or _explained(kind, new) or _here(session, near):
        return False
    return _unusual(session, places, spaces, new.likeness.factors, new.model_digest)


def made_outside_before(
    registry: Registry, session: Session, places: Places, spaces: Collection[int], version_ids: Collection[int]
) -> list[int]:
    """The same of registered versions, by their own spaces too."""
    rows = versions_by_id(session, version_ids)
    open_ones = [row for row in rows.values() if not _explained(row.operation.kind, row)]
    likenesses = stored_likenesses(registry, session, open_ones)
    found = []
    for row in open_ones:
        factors = likenesses[row.id].factors
        own = set() if row.space_id is None else {row.space_id}
        if factors is not None and _unusual(session, places, own.union(spaces), factors, row.model_digest):
            found.append(row.id)
    return found


def _unusual(session: Session, places: Places, spaces: Collection[int], factors: Factors, model_digest: str) -> bool:
    return any(places.unusual(factors, i) and not is_member(session, i, model_digest) for i in sorted(spaces))


def _explained(kind: str, version: NewVersion | Version) -> bool:
    released = kind == OperationKind.PULL and version.space_id is not None and version.residual is None
    return kind in _RECORDED or released


def _here(session: Session, near: Sequence[Near]) -> bool:
    same = [one.version_id for one in near if one.by is By.MODEL]
    return any(row.state is VersionState.ACTIVE for row in versions_by_id(session, same).values())
