"""``w2w-reg alias unset``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, say


@click.command()
@click.argument("alias_name", metavar="ALIAS")
@click.argument("name", metavar="NAME")
@takes_frame
def unset(frame: Frame, alias_name: str, name: str) -> None:
    """Remove an alias from an identity."""
    from w2w_registry.services.identities import manage

    value = manage.unset_alias(frame.registry(), alias_name, name)
    emit(frame, value, lambda: say(f"{value['identity']}@{value['alias']} is gone"))
