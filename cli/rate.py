"""``w2w-reg rate``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, told_changes


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME…]", type=options.Word())
@click.option("--stars", metavar="0-5", type=click.FloatRange(0, 5), help="How good it is.")
@click.option("--favourite/--no-favourite", default=None, help="Mark it as a favourite, or remove the mark.")
@options.where
@takes_frame
def rate(frame: Frame, names: tuple[str, ...], stars: float | None, favourite: bool | None, where: str | None) -> None:
    """Rate identities, and mark favourites. Both are tags, and numbers.

    \b
    w2w-reg rate alice bob --stars 4
    w2w-reg rate alice --favourite
    w2w-reg list --where "tag.rating >= 4 and tag.favourite = 1" --sort -tag.rating
    """
    from w2w_registry.services.identities import bulk

    value = bulk.rate(frame.registry(), names, stars, favourite=favourite, where=where)
    emit(frame, value, lambda: told_changes(value))
