"""``w2w-reg config set``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, say, warn

_NOT_THERE = (
    "there is no registry there yet: `w2w-reg init` creates an empty one; to keep the one you had, go back with "
    "`w2w-reg config unset database.url` and run `w2w-reg copy-to URL` first"
)


@click.command(name="set")
@click.argument("key", metavar="TABLE.NAME")
@click.argument("value", metavar="VALUE")
@takes_frame
def set_(frame: Frame, key: str, value: str) -> None:
    """Set one key of registry.toml; its other lines and comments are kept."""
    from w2w_registry.services.recording import configuring

    done = configuring.put(frame.settings(), key, value)

    def human() -> None:
        say(f"{done['key']} = {done['value']}  ({done['file']})")
        if done["missing"]:
            warn(_NOT_THERE)

    emit(frame, done, human)
