"""``w2w-reg config show``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, table


@click.command()
@takes_frame
def show(frame: Frame) -> None:
    """Show every setting in force and where it comes from."""
    from w2w_registry.services.recording import configuring

    rows = configuring.show(frame.settings())
    emit(frame, rows, lambda: table(rows, ["key", "value", "source"]))
