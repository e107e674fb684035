"""``w2w-reg preview set``."""

from __future__ import annotations

from pathlib import Path

import click

from ..frame import Frame, takes_frame
from ..output import emit, say


@click.command(name="set")
@click.argument("name", metavar="NAME[@V]")
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
@takes_frame
def set_(frame: Frame, name: str, picture: Path) -> None:
    """Use a picture as a version's preview; a small copy without metadata is kept."""
    from w2w_registry.services.identities import previews

    value = previews.set_preview(frame.registry(), name, picture)
    verb = "preview set" if value["changed"] else "has this preview already"
    emit(frame, value, lambda: say(f"{value['version']}: {verb}"))
