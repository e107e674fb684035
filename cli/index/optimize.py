"""``w2w-reg index optimize``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, note, table


@click.command()
@click.option("--space", metavar="NAME[@V]", help="Weight space (default: every space).")
@takes_frame
def optimize(frame: Frame, space: str | None) -> None:
    """Rewrite each space's search index as one piece, up to date and without removed rows.

    Searches keep working meanwhile. This is never required: adding keeps the index in a few pieces anyway.
    """
    from w2w_registry.services.recording import nearest

    found = [one.to_json() for one in nearest.optimize(frame.registry(), space)]

    def human() -> None:
        table(found, ["space", "kind", "pieces", "rows"], empty="no spaces yet; `w2w-reg space fit NAME PATH…`")
        if any(one["pieces"] is None for one in found):
            note("left unchanged: those that another process is writing, or that a server keeps")

    emit(frame, found, human)
