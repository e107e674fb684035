"""``w2w-reg tag unset``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, pairs


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@takes_frame
def unset(frame: Frame, name: str, keys: tuple[str, ...]) -> None:
    """Remove tags."""
    from w2w_registry.services.identities import manage

    value = manage.unset_tags(frame.registry(), name, keys)
    emit(frame, value, lambda: pairs(value["tags"].items()))
