"""``w2w-reg direction list``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from .printing import show_directions


@click.command(name="list")
@options.space
@takes_frame
def list_(frame: Frame, space: str | None) -> None:
    """List the directions of a space."""
    from w2w_registry.services.synthesis import direction_list as service

    rows = service.list_directions(frame.registry(), space)
    emit(frame, rows, lambda: show_directions(rows))
