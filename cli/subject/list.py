"""``w2w-reg subject list``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, table


@click.command(name="list")
@takes_frame
def list_(frame: Frame) -> None:
    """List subjects and the state of their consent."""
    from w2w_registry.services.consent import subjects

    rows = subjects.list_subjects(frame.registry())
    columns = ["subject", "kind", "state", "consent", "records", "versions", "created"]
    emit(frame, rows, lambda: table(rows, columns, empty="no subjects yet; `w2w-reg subject add ID`"))
