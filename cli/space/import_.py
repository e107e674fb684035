"""``w2w-reg space import``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, facts, note, progress


@click.command(name="import")
@click.argument("name")
@click.argument("path")
@click.option("--components", type=click.IntRange(1), metavar="K", help="Keep only the first K components.")
@click.option("--base-model", metavar="ID", help="Base model, when the files do not name it.")
@click.option("--identities/--no-identities", default=False, help="Also add the release's own points as identities.")
@takes_frame
def import_(
    frame: Frame, name: str, path: str, components: int | None, base_model: str | None, identities: bool
) -> None:
    """Import a weight space from PATH: a folder written by `space export`, the public weights2weights release
    (mean.pt, std.pt, V.pt, weight_dimensions.pt), or a Hub repo (hf://owner/repo[@rev])."""
    from w2w_registry.services.hub.resolving import space_folder
    from w2w_registry.services.spaces import manage

    registry = frame.registry()
    with progress("importing") as tick, space_folder(registry, path, tick) as (folder, origin):
        value = manage.import_space(
            registry,
            name,
            folder,
            components=components,
            base_model=base_model,
            identities=identities,
            progress=tick,
            origin=origin,
        )
    for text in value.notes:
        note(text)
    emit(frame, value, lambda: facts(value))
