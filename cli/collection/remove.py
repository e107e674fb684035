"""``w2w-reg collection remove``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, told_changes


@click.command()
@click.argument("name", metavar="COLLECTION", type=options.Word())
@click.argument("names", nargs=-1, metavar="[NAME…]", type=options.Word())
@options.where
@takes_frame
def remove(frame: Frame, name: str, names: tuple[str, ...], where: str | None) -> None:
    """Remove identities from a collection; they stay in the registry."""
    from w2w_registry.services.identities import bulk

    value = bulk.collect(frame.registry(), name, names, where=where, out=True)
    emit(frame, value, lambda: told_changes(value))
