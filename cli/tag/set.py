"""``w2w-reg tag set``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs, told_changes


@click.command(name="set")
@click.argument("words", nargs=-1, required=True, metavar="[NAME…] KEY=VALUE…")
@options.where
@takes_frame
def set_(frame: Frame, words: tuple[str, ...], where: str | None) -> None:
    """Set tags on one identity, on several, or on all that match --where.

    \b
    w2w-reg tag set p0007 team=ads campaign=spring
    w2w-reg tag set 'acme/*' team=ads
    w2w-reg tag set --where "beard > 0.5" look=bearded
    """
    from w2w_registry.services.identities import bulk, manage

    names, items = options.names_and_items(words)
    if where is None and options.is_one(names):
        value = manage.set_tags(frame.registry(), names[0], items)
        emit(frame, value, lambda: pairs(value["tags"].items()))
        return
    done = bulk.tag_many(frame.registry(), names, manage.parse_tags(items), where=where)
    emit(frame, done, lambda: told_changes(done))
