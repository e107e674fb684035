"""``w2w-reg note``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, say


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("text", required=False)
@takes_frame
def note(frame: Frame, name: str, text: str | None) -> None:
    """Keep a note on an identity; without TEXT, remove it."""
    from w2w_registry.services.identities import describing

    value = describing.note(frame.registry(), name, text)
    emit(frame, value, lambda: say(value["tags"].get(describing.NOTE, "no note")))
