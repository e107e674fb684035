"""``w2w-reg label set``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs, told_changes


@click.command(name="set")
@click.argument("words", nargs=-1, required=True, metavar="[NAME[@V]…] LABEL=VALUE…")
@options.where
@takes_frame
def set_(frame: Frame, words: tuple[str, ...], where: str | None) -> None:
    """Set labels on one version, on several, or on all that match --where.

    \b
    w2w-reg label set p0007 beard=1 team=ads
    w2w-reg label set --where "tag.team = 'ads'" cleared=1
    """
    from w2w_registry.services.identities import bulk, describing
    from w2w_registry.services.recording.labels import parse_labels

    names, items = options.names_and_items(words)
    if where is None and options.is_one(names):
        value = describing.label(frame.registry(), names[0], parse_labels(items))
        emit(frame, value, lambda: pairs(value["labels"].items()))
        return
    done = bulk.label_many(frame.registry(), names, parse_labels(items), where=where)
    emit(frame, done, lambda: told_changes(done))
