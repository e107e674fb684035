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
from w2w_registry.consent.second_look import By
from w2w_registry.records import OperationKind, VersionState
from w2w_registry.services.consent.places import Places
from w2w_registry.services.consent.second_look import Near
from w2w_registry.services.recording.versions import Activity, NewVersion

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
    factors = new.likeness.factors
    if factors is None or _explained(new, activity) or _here(session, near):
        return False
    return any(places.unusual(factors, i) and not is_member(session, i, new.model_digest) for i in sorted(spaces))


def _explained(new: NewVersion, activity: Activity | None) -> bool:
    if activity is None:
        return False
    released = activity.kind == OperationKind.PULL and new.space_id is not None and new.residual is None
    return activity.kind in _RECORDED or released


def _here(session: Session, near: Sequence[Near]) -> bool:
    same = [one.version_id for one in near if one.by is By.MODEL]
    return any(row.state is VersionState.ACTIVE for row in versions_by_id(session, same).values())
