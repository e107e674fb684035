"""``w2w-reg tag``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, pairs


@click.group()
def tag() -> None:
    """Set and unset tags of identities."""


@tag.command(name="set")
@click.argument("name", metavar="NAME")
@click.argument("items", nargs=-1, required=True, metavar="KEY=VALUE…")
@takes_frame
def tag_set(frame: Frame, name: str, items: tuple[str, ...]) -> None:
    """Set tags: `tag set p0007 team=ads campaign=spring`."""
    from w2w_registry.services.identities import manage

    value = manage.set_tags(frame.registry(), name, items)
    emit(frame, value, lambda: pairs(value["tags"].items()))


@tag.command(name="unset")
@click.argument("name", metavar="NAME")
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@takes_frame
def tag_unset(frame: Frame, name: str, keys: tuple[str, ...]) -> None:
    """Remove tags."""
    from w2w_registry.services.identities import manage

    value = manage.unset_tags(frame.registry(), name, keys)
    emit(frame, value, lambda: pairs(value["tags"].items()))
