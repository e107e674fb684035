"""``w2w-reg space update``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, facts, progress, warn_all


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--components", type=click.IntRange(1), metavar="K", help="Components to keep (default: as many as now).")
@takes_frame
def update(frame: Frame, name: str, paths: tuple[str, ...], components: int | None) -> None:
    """Make the next version of space NAME with the LoRAs at PATH… added to its fit set, and place every identity
    of NAME in it.

    The LoRAs that NAME was fitted on are not read: what the space has kept of them is used instead, and what that
    loses is shown.
    """
    from w2w_registry.services.spaces.update import update_space

    with progress("reading") as tick:
        value = update_space(frame.registry(), name, paths, components=components, progress=tick)
    warn_all(value.warnings)
    emit(frame, value, lambda: facts(value))
