"""``w2w-reg space map``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..frame import Frame, takes_frame
from ..output import emit, note, print_csv

if TYPE_CHECKING:
    from w2w_registry.services.search.atlas import Way


@click.command(name="map")
@click.argument("name", metavar="NAME[@V]")
@click.option(
    "--by",
    type=click.Choice(["pca", "umap"]),
    default="pca",
    show_default=True,
    help="Two dimensions: the first two components, or UMAP.",
)
@click.option(
    "--limit",
    metavar="N",
    default=20_000,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="At most N versions, evenly chosen.",
)
@takes_frame
def map_(frame: Frame, name: str, by: Way, limit: int) -> None:
    """Print where a space's versions lie in two dimensions, with their labels, as CSV.

    \b
    w2w-reg space map faces --by umap > map.csv
    embedding-atlas map.csv --x x --y y --text version
    """
    from w2w_registry.services.search import atlas

    rows, everybody = atlas.table(frame.registry(), name, by, limit)
    labels = sorted({key for row in rows for key in row if key.startswith("label.")})
    emit(frame, rows, lambda: print_csv(rows, ["version", "kind", "x", "y", *labels]))
    if len(rows) < everybody:
        note(f"{len(rows):,} of {everybody:,} versions, evenly chosen")
