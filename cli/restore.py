"""``w2w-reg restore``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.tar")
@options.dry_run
@takes_frame
def restore(frame: Frame, file: Path, dry_run: bool) -> None:
    """Restore a registry from a backup into an empty home folder (--home). Every file is checked first.

    \b
    w2w-reg --home ~/restored restore backup.tar
    """
    from w2w_registry.services.recording import backups

    settings = frame.settings()
    with progress("restoring") as tick:
        value = backups.restore(settings, file, perform=not dry_run, progress=tick).to_json()

    def human() -> None:
        verb = "would be restored" if dry_run else "restored"
        say(f"{value['files']} files {verb} into {settings.home}")
        if value["left_out"]:
            names = " and ".join(value["left_out"])
            note(f"taken out of registry.toml: {names}; what was restored is used, not what the backup was made of")
        if not dry_run:
            note("Next: w2w-reg audit verify")

    emit(frame, {**value, "home": str(settings.home)}, human)
