"""``w2w-reg space show``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, pairs


@click.command()
@click.argument("name", metavar="NAME[@V]")
@takes_frame
def show(frame: Frame, name: str) -> None:
    """Show a weight space: base model, layout, explained variance, metric, calibration, software versions."""
    from w2w_registry.services.spaces import showing

    value = showing.show_space(frame.registry(), name)
    emit(frame, value, lambda: pairs((k.replace("_", " "), v) for k, v in value.items()))
