"""``w2w-reg db upgrade``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, pairs, progress


@click.command()
@takes_frame
def upgrade(frame: Frame) -> None:
    """Upgrade the schema to the one this release needs, and compute what earlier releases did not store."""
    from w2w_registry.services import registry
    from w2w_registry.services.recording import sketches

    value = registry.upgrade_schema(frame.settings())
    with progress("comparing") as tick:
        shown = {**value.to_json(), "sketches": sketches.complete(frame.registry(), tick)}
    emit(frame, shown, lambda: pairs(shown.items()))
