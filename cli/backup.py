"""``w2w-reg backup``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, progress, say, warn


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.tar")
@options.force
@takes_frame
def backup(frame: Frame, file: Path, force: bool) -> None:
    """Back up the registry to one file: catalog, stored files, settings and keys.

    The catalog is a consistent snapshot, even while others write; a PostgreSQL catalog becomes a SQLite file. The
    backup contains the private keys: keep it where only you can read it. People erased later are still in it: delete
    old backups.
    """
    from w2w_registry.services.recording import backups

    with progress("backing up") as tick:
        value = backups.backup(frame.registry(), file, force=force, progress=tick).to_json()

    def human() -> None:
        for digest in value["missing"][:3]:
            warn(f"file {digest[:16]}… is missing and not in the backup")
        say(f"{value['file']}: {value['files']} files, {value['bytes'] / 1e6:.1f} MB")

    emit(frame, value, human)
