"""``w2w-reg space list``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, table


@click.command(name="list")
@takes_frame
def list_(frame: Frame) -> None:
    """List weight spaces."""
    from w2w_registry.services.spaces import showing

    rows = showing.list_spaces(frame.registry())
    columns = ["space", "base_model", "dim", "components", "fit_size", "identities", "digest", "created"]
    shown = [{**row, "digest": row["digest"][:12]} for row in rows]
    emit(frame, rows, lambda: table(shown, columns, empty="no spaces yet; `w2w-reg space fit NAME PATH…`"))
