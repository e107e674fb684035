"""``w2w-reg releases``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, table


@click.command()
@click.option("--where", metavar="EXPR", help="Only releases of identities that match.")
@click.option("--at", metavar="DATE", help="Releases published by then, with the state and consent they had.")
@takes_frame
def releases(frame: Frame, where: str | None, at: str | None) -> None:
    """List what is published, with its state, consent and unfinished takedowns."""
    from w2w_registry.services.hub import listing as service
    from w2w_registry.services.identities.manage import parse_moment

    rows = service.list_releases(frame.registry(), where, moment=None if at is None else parse_moment(at))
    columns = ["version", "repo", "commit", "tag", "access", "format", "state", "consent", "created"]
    shown = [{**row, "commit": row["commit"][:12]} for row in rows]
    emit(frame, rows, lambda: table(shown, columns, empty="nothing published"))
