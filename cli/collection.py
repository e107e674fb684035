"""``w2w-reg collection``."""

from __future__ import annotations

import click

from . import options
from .folder_group import HintingGroup
from .frame import Frame, takes_frame
from .output import emit, table, told_changes


@click.group(cls=HintingGroup)
def collection() -> None:
    """Group identities under a name; an identity can be in several collections.

    \b
    w2w-reg collection add summer alice bob
    w2w-reg collection add summer --where "tag.team = 'ads'"
    w2w-reg collection show summer
    """


@collection.command()
@click.argument("name", metavar="COLLECTION", type=options.Word())
@click.argument("names", nargs=-1, metavar="[NAME…]", type=options.Word())
@options.where
@takes_frame
def add(frame: Frame, name: str, names: tuple[str, ...], where: str | None) -> None:
    """Add identities to a collection."""
    from w2w_registry.services.identities import bulk

    value = bulk.collect(frame.registry(), name, names, where=where)
    emit(frame, value, lambda: told_changes(value))


@collection.command()
@click.argument("name", metavar="COLLECTION", type=options.Word())
@click.argument("names", nargs=-1, metavar="[NAME…]", type=options.Word())
@options.where
@takes_frame
def remove(frame: Frame, name: str, names: tuple[str, ...], where: str | None) -> None:
    """Remove identities from a collection; they stay in the registry."""
    from w2w_registry.services.identities import bulk

    value = bulk.collect(frame.registry(), name, names, where=where, out=True)
    emit(frame, value, lambda: told_changes(value))


@collection.command(name="list")
@takes_frame
def list_(frame: Frame) -> None:
    """List collections and the number of identities in each."""
    from w2w_registry.services.identities import bulk

    rows = bulk.collections(frame.registry())
    empty = "no collections yet; `w2w-reg collection add COLLECTION NAME…`"
    emit(frame, rows, lambda: table(rows, ["collection", "identities"], empty=empty))


@collection.command()
@click.argument("name", metavar="COLLECTION", type=options.Word())
@takes_frame
def show(frame: Frame, name: str) -> None:
    """List the identities of a collection."""
    from w2w_registry.services.identities import bulk

    rows = bulk.members(frame.registry(), name)
    columns = ["identity", "version", "kind", "state", "space", "consent", "created"]
    emit(frame, rows, lambda: table(rows, columns))
