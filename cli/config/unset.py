"""``w2w-reg config unset``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, say


@click.command()
@click.argument("key", metavar="TABLE.NAME")
@takes_frame
def unset(frame: Frame, key: str) -> None:
    """Remove one key from registry.toml."""
    from w2w_registry.services.recording import configuring

    done = configuring.put(frame.settings(), key, None)
    emit(frame, done, lambda: say(f"{done['key']} is no longer set  ({done['file']})"))
