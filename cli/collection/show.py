"""``w2w-reg collection show``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, table


@click.command()
@click.argument("name", metavar="COLLECTION", type=options.Word())
@takes_frame
def show(frame: Frame, name: str) -> None:
    """List the identities of a collection."""
    from w2w_registry.services.identities import bulk

    rows = bulk.members(frame.registry(), name)
    columns = ["identity", "version", "kind", "state", "space", "consent", "created"]
    emit(frame, rows, lambda: table(rows, columns))
