"""``w2w-reg collection add``."""

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
def add(frame: Frame, name: str, names: tuple[str, ...], where: str | None) -> None:
    """Add identities to a collection."""
    from w2w_registry.services.identities import bulk

    value = bulk.collect(frame.registry(), name, names, where=where)
    emit(frame, value, lambda: told_changes(value))
