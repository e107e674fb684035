"""``w2w-reg label export``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, print_csv


@click.command()
@click.argument("patterns", nargs=-1, metavar="[NAME|PATTERN…]")
@options.where
@takes_frame
def export(frame: Frame, patterns: tuple[str, ...], where: str | None) -> None:
    """Print the labels of identities as CSV: a row per identity and a column per label, as `label import` reads them.

    w2w-reg label export > labels.csv
    """
    from w2w_registry.services.identities import browsing

    rows, columns = browsing.labelled(frame.registry(), patterns, where=where)
    emit(frame, rows, lambda: print_csv(rows, columns))
