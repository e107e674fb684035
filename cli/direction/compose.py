"""``w2w-reg direction compose``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from .printing import show_direction


@click.command()
@click.argument("name")
@click.argument("parts", metavar="PARTS")
@options.space
@options.replace
@takes_frame
def compose(frame: Frame, name: str, parts: str, space: str | None, replace: bool) -> None:
    """Store a direction NAME that combines several: `direction compose pirate 'beard=1, hat=2'`."""
    from w2w_registry.services.synthesis import directions as service
    from w2w_registry.services.synthesis.edit import parse_amounts

    weights = {k: float(v) for k, v in parse_amounts(parts).items()}
    value = service.compose(frame.registry(), name, weights, space, replace_existing=replace)
    emit(frame, value, lambda: show_direction(value))
