"""``w2w-reg policy history``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, table


@click.command()
@takes_frame
def history(frame: Frame) -> None:
    """List every policy that was in force, and what each one changed."""
    from w2w_registry.services.recording import policies

    rows = policies.history(frame.registry())
    emit(frame, rows, lambda: table(rows, ("number", "since", "digest", "changes")))
