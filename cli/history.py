"""``w2w-reg history``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, table


@click.command()
@click.argument("name", metavar="NAME[@ALIAS]")
@click.option("--at", metavar="DATE", help="Only what each alias pointed to at this time (ISO date or time, UTC).")
@takes_frame
def history(frame: Frame, name: str, at: str | None) -> None:
    """Show which version each alias of an identity pointed to, and from when to when."""
    from w2w_registry.services.identities import manage

    rows = manage.history(frame.registry(), name, at=at)
    emit(frame, rows, lambda: table(rows, ["alias", "version", "since", "until"], empty="no alias was ever set"))
