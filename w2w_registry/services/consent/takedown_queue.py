"""Queueing of takedowns, inside the transaction that decides on them; the Hub rooms perform them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from w2w_registry.catalog.models import (
    Release,
    ReleaseState,
    Takedown,
    TakedownState,
)
from w2w_registry.catalog.publications import open_takedowns
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.hub.plan import TakedownStep

UP_TO: dict[str, tuple[TakedownStep, ...]] = {
    "gate": (TakedownStep.GATE,),
    "hide": (TakedownStep.HIDE,),
    "erase": (TakedownStep.HIDE, TakedownStep.ERASE),
    "delete": (TakedownStep.HIDE, TakedownStep.ERASE, TakedownStep.DELETE),
}
"""How far a takedown goes → its steps. Hidden first, so that nobody fetches what is about to go."""


def queue(
    uow: UnitOfWork,
    release_ids: Iterable[int],
    steps: Sequence[TakedownStep | str],
    *,
    withdrawal_id: str | None = None,
) -> list[str]:
    """Queue the takedown of releases, inside the caller's transaction; returns the takedowns' ids.

    A release with an unfinished takedown keeps it, with the steps of both.
    """
    made: list[str] = []
    for release_id in sorted(set(release_ids)):
        release = uow.session.get_one(Release, release_id)
        row = next(iter(open_takedowns(uow.session, releases=[release_id])), None)
        if row is None:
            row = Takedown(
                id=str(uuid.uuid4()),
                release_id=release_id,
                withdrawal_id=withdrawal_id,
                wanted=[str(s) for s in steps],
                done=[],
                state=TakedownState.QUEUED,
                attempts=0,
                created=uow.now(),
            )
            uow.session.add(row)
        else:
            row.wanted = list(dict.fromkeys([*row.wanted, *(str(s) for s in steps)]))
            row.withdrawal_id = row.withdrawal_id or withdrawal_id
            row.state, row.next_at = TakedownState.QUEUED, None
        release.state = ReleaseState.TAKEDOWN_QUEUED
        made.append(row.id)
        uow.event("takedown.queue", {"takedown": row.id, "release": release_id}, wanted=row.wanted)
    return made
