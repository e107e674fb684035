"""``w2w-reg alias``."""

from __future__ import annotations

import click

from .folder_group import HintingGroup
from .frame import Frame, takes_frame
from .output import emit, say


@click.group(cls=HintingGroup)
def alias() -> None:
    """Set and unset aliases: movable names for versions, as in p0007@production."""


@alias.command(name="set")
@click.argument("alias_name", metavar="ALIAS")
@click.argument("target", metavar="NAME[@V]")
@takes_frame
def alias_set(frame: Frame, alias_name: str, target: str) -> None:
    """Point ALIAS at a version of an identity: `alias set production p0007@2`."""
    from w2w_registry.services.identities import manage

    value = manage.set_alias(frame.registry(), alias_name, target)
    emit(frame, value, lambda: say(f"{value['identity']}@{value['alias']} is now version {value['version']}"))


@alias.command(name="unset")
@click.argument("alias_name", metavar="ALIAS")
@click.argument("name", metavar="NAME")
@takes_frame
def alias_unset(frame: Frame, alias_name: str, name: str) -> None:
    """Remove an alias from an identity."""
    from w2w_registry.services.identities import manage

    value = manage.unset_alias(frame.registry(), alias_name, name)
    emit(frame, value, lambda: say(f"{value['identity']}@{value['alias']} is gone"))
