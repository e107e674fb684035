"""``w2w-reg rename``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, say


@click.command()
@click.argument("old", metavar="NAME")
@click.argument("new", metavar="NEW-NAME")
@takes_frame
def rename(frame: Frame, old: str, new: str) -> None:
    """Rename an identity; its versions, aliases and history are kept."""
    from w2w_registry.services.identities import describing

    value = describing.rename(frame.registry(), old, new)
    emit(frame, value, lambda: say(f"{value['was']} is now {value['identity']}"))
