"""``w2w-reg show``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, pairs, say, table


@click.command()
@click.argument("name", metavar="NAME[@V]")
@takes_frame
def show(frame: Frame, name: str) -> None:
    """Show one identity: its versions, coordinates digest, operation, labels, tags and aliases."""
    from w2w_registry.services.identities import manage

    value = manage.show(frame.registry(), name)

    def human() -> None:
        skip = {"versions", "operation"}
        pairs((k.replace("_", " "), v) for k, v in value.items() if k not in skip and (k != "held" or v))
        operation = value["operation"]
        pairs([("made by", f"{operation['kind']} by {operation['agent']} at {operation['started_at']}")])
        say()
        table(value["versions"], ["version", "state", "space", "residual", "operation", "created"])

    emit(frame, value, human)
