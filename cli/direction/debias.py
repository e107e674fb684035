"""``w2w-reg direction debias``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from .printing import show_direction


@click.command()
@click.argument("name")
@click.option(
    "--against", multiple=True, required=True, metavar="A", help="Label or direction to project out (repeatable)."
)
@click.option("--as", "new", metavar="NEW", help="Name of the result (default: NAME-only).")
@options.space
@options.replace
@takes_frame
def debias(
    frame: Frame, name: str, against: tuple[str, ...], new: str | None, space: str | None, replace: bool
) -> None:
    """Store direction NAME with its effect on other attributes removed."""
    from w2w_registry.services.synthesis import directions as service

    value = service.debias(frame.registry(), new or f"{name}-only", name, against, space, replace_existing=replace)
    emit(frame, value, lambda: show_direction(value))
