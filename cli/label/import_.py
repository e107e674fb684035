"""``w2w-reg label import``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, note, warn_unmatched


@click.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False), metavar="CSV")
@takes_frame
def import_(frame: Frame, file: str) -> None:
    """Set labels from a CSV file with a row per identity and a column per label.

    Rows that match no identity are listed. Numbers may be written as spreadsheets do: 45% is 0.45, and where a
    column or table has 0,5 in it, 1.234 is a thousand.
    """
    from w2w_registry.services.identities import describing

    done = describing.import_labels(frame.registry(), file)

    def human() -> None:
        warn_unmatched(done.unmatched, "identity")
        note(f"{len(done.updated)} updated, {len(done.unchanged)} unchanged, {len(done.unmatched)} unmatched")

    emit(frame, done.to_json(), human)
