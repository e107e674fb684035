"""``w2w-reg direction show``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from .printing import show_direction


@click.command()
@click.argument("name")
@options.space
@takes_frame
def show(frame: Frame, name: str, space: str | None) -> None:
    """Show a direction: quality, calibration, leakage."""
    from w2w_registry.services.synthesis import direction_list as service

    value = service.show(frame.registry(), name, space)
    emit(frame, value, lambda: show_direction(value))
