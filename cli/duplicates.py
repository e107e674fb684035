"""``w2w-reg duplicates``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, note, progress, say


@click.command()
@takes_frame
def duplicates(frame: Frame) -> None:
    """List versions that are the same model (re-saved, rescaled, or at another rank or precision), in any space, the
    most certain first."""
    from w2w_registry.services.search import duplicates as service

    with progress("comparing") as tick:
        found, compared = service.duplicates(frame.registry(), tick)

    def human() -> None:
        for one in found:
            say(f"{'  '.join(one.versions)}  ({one.how})")
        if not found:
            say("no two versions are the same model")
        note(f"{compared} versions compared")

    emit(frame, {"compared": compared, "duplicates": [one.to_json() for one in found]}, human)
