"""``w2w-reg copy-to``."""

from __future__ import annotations

import click

from w2w_registry.commands import command

from .frame import Frame, takes_frame
from .output import emit, note, pairs


@click.command(name="copy-to")
@click.argument("url", metavar="URL")
@takes_frame
def copy_to(frame: Frame, url: str) -> None:
    """Copy the catalog to another database, SQLite or PostgreSQL, and compare every row's digest and the log.

    The other database must be empty. Files stay where they are, and this registry is not changed.

    \b
    w2w-reg copy-to postgresql://team@db/registry
    w2w-reg config set database.url postgresql://team@db/registry
    """
    from w2w_registry.services.recording import backups

    value = backups.copy_to(frame.registry(), url)

    def human() -> None:
        pairs((table, count) for table, count in value["rows"].items() if count)
        note(f"copied to {value['target']}; every row and the log are the same there")
        url = "the same URL" if "***" in value["target"] else value["target"]  # no password is said
        note(f"Next: {command('config set', 'database.url', url)}")

    emit(frame, value, human)
