"""``w2w-reg space export``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("out", type=click.Path(file_okay=False))
@options.force
@takes_frame
def export(frame: Frame, name: str, out: str, force: bool) -> None:
    """Write a weight space to folder OUT (safetensors + json), which `space import` reads back bit for bit."""
    from w2w_registry.services.spaces import manage

    value = manage.export_space(frame.registry(), name, out, force=force)
    emit(frame, value, lambda: pairs(value.items()))
