"""``w2w-reg alias set``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, say


@click.command(name="set")
@click.argument("alias_name", metavar="ALIAS")
@click.argument("target", metavar="NAME[@V]")
@takes_frame
def set_(frame: Frame, alias_name: str, target: str) -> None:
    """Point ALIAS at a version of an identity: `alias set production p0007@2`."""
    from w2w_registry.services.identities import manage

    value = manage.set_alias(frame.registry(), alias_name, target)
    emit(frame, value, lambda: say(f"{value['identity']}@{value['alias']} is now version {value['version']}"))
