"""``w2w-reg gc``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say, warn


@click.command()
@click.option(
    "--yes",
    is_flag=True,
    help="Confirm that no other registry keeps files in this store, which lies outside the home folder.",
)
@options.dry_run
@takes_frame
def gc(frame: Frame, yes: bool, dry_run: bool) -> None:
    """Delete stored files that nothing in the catalog refers to any more, such as those a crash left behind, and the
    saved progress of trainings that were stopped and not resumed for 30 days.

    Files less than an hour old are left alone: a running command may be about to record them.
    """
    from w2w_registry.services.recording import unused

    registry = frame.registry()
    with progress("sweeping") as tick:
        found = unused.gc(registry, perform=not dry_run, alone=yes, progress=tick)

    def human() -> None:
        verb = "deleted" if found.performed else "would delete"
        count = len(found.unused)
        say(f"{verb} {count} {'file' if count == 1 else 'files'}, {found.size / 1e6:.1f} MB")
        if found.trainings:
            say(f"{verb} {len(found.trainings)} states of trainings that were stopped more than 30 days ago")
        if found.unfinished:
            note(f"{found.unfinished} unfinished trainings of the last 30 days can be resumed and were left alone")
        if found.young:
            note(f"{found.young} unreferenced files are less than an hour old and were left alone")
        if not found.recorded:
            warn("the disk left no room to record this in the log")

    emit(frame, found.to_json(), human)
