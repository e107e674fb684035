"""``w2w-reg direction list``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, table
from .printing import quality, worst_leak


@click.command(name="list")
@options.space
@takes_frame
def list_(frame: Frame, space: str | None) -> None:
    """List the directions of a space."""
    from w2w_registry.services.synthesis import directions as service

    rows = service.list_directions(frame.registry(), space)
    shown = [{**r, "quality": quality(r), "kept": ", ".join(r["kept"]), "leaks most": worst_leak(r)} for r in rows]
    columns = ["direction", "space", "attribute", "method", "quality", "kept", "leaks most"]
    emit(frame, rows, lambda: table(shown, columns, empty="no directions yet; `w2w-reg direction fit NAME`"))
