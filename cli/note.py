"""``w2w-reg note``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, say


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("text", required=False)
@click.option("--remove", is_flag=True, help="Remove the note.")
@takes_frame
def note(frame: Frame, name: str, text: str | None, remove: bool) -> None:
    """Write a note on an identity; without TEXT, show it.

    \b
    w2w-reg note acme/alice "shot in May; the lighting was poor"
    w2w-reg note acme/alice
    """
    from w2w_registry.services.identities import describing

    if remove and text is not None:
        raise click.UsageError("give either TEXT or --remove, not both")
    if text is None and not remove:
        value = describing.noted(frame.registry(), name)
    else:
        value = describing.note(frame.registry(), name, text)
    emit(frame, value, lambda: say(value["tags"].get(describing.NOTE, "no note")))
