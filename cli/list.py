"""``w2w-reg list``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, table


@click.command(name="list")
@options.where
@click.option("--sort", default="name", show_default=True, help="Field to sort by; '-' before it for descending.")
@options.limit
@takes_frame
def list_(frame: Frame, where: str | None, sort: str, limit: int | None) -> None:
    """List identities (their newest active versions)."""
    from w2w_registry.services.identities import manage

    rows = manage.list_identities(frame.registry(), where=where, sort=sort, limit=limit)

    def human() -> None:
        columns = ["identity", "version", "kind", "state", "space", "residual", "consent", "created"]
        if any(row["held"] for row in rows):
            columns.insert(4, "held")
        table(rows, columns, empty="no identities match" if where else "no identities yet; `w2w-reg add PATH…`")

    emit(frame, rows, human)
