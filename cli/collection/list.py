"""``w2w-reg collection list``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, table


@click.command(name="list")
@takes_frame
def list_(frame: Frame) -> None:
    """List collections and the number of identities in each."""
    from w2w_registry.services.identities import bulk

    rows = bulk.collections(frame.registry())
    empty = "no collections yet; `w2w-reg collection add COLLECTION NAME…`"
    emit(frame, rows, lambda: table(rows, ["collection", "identities"], empty=empty))
