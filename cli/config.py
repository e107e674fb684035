"""``w2w-reg config``."""

from __future__ import annotations

import click

from .folder_group import HintingGroup
from .frame import Frame, takes_frame
from .output import emit, say, table, warn

_NOT_THERE = (
    "there is no registry there yet: `w2w-reg init` creates an empty one; to keep the one you had, go back with "
    "`w2w-reg config unset database.url` and run `w2w-reg copy-to URL` first"
)


@click.group(cls=HintingGroup)
def config() -> None:
    """Show and change settings: paths of base models, database, Hub.

    \b
    w2w-reg config show
    w2w-reg config set pipelines.SG161222/Realistic_Vision_V5.1_noVAE ~/models/rv51
    w2w-reg config unset hub.endpoint
    """


@config.command()
@takes_frame
def show(frame: Frame) -> None:
    """Show every setting in force and where it comes from."""
    from w2w_registry.services.recording import configuring

    rows = configuring.show(frame.settings())
    emit(frame, rows, lambda: table(rows, ["key", "value", "source"]))


@config.command(name="set")
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


@config.command()
@click.argument("key", metavar="TABLE.NAME")
@takes_frame
def unset(frame: Frame, key: str) -> None:
    """Remove one key from registry.toml."""
    from w2w_registry.services.recording import configuring

    done = configuring.put(frame.settings(), key, None)
    emit(frame, done, lambda: say(f"{done['key']} is no longer set  ({done['file']})"))
