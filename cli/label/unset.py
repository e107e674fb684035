"""``w2w-reg label unset``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, pairs


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL…")
@takes_frame
def unset(frame: Frame, name: str, labels: tuple[str, ...]) -> None:
    """Remove labels."""
    from w2w_registry.services.identities import describing

    value = describing.unlabel(frame.registry(), name, labels)
    emit(frame, value, lambda: pairs(value["labels"].items()))
