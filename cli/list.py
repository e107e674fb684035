"""``w2w-reg list``."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, print_csv, table


@click.command(name="list")
@click.argument("patterns", nargs=-1, metavar="[NAME…]")
@options.where
@click.option(
    "--sort", default="name", show_default=True, help="Field to sort by; put '-' before it for descending order."
)
@options.limit
@click.option("--columns", metavar="A,B", help="What to show, as in identity,version,label.beard,tag.team.")
@options.excluding(
    "json",
    click.option(
        "--csv",
        "as_csv",
        is_flag=True,
        help="Print CSV; an apostrophe begins each cell that a spreadsheet would run.",
    ),
)
@click.option(
    "--at",
    metavar="DATE",
    help="Show what was there at the end of that day, or at that time; --where compares today's values.",
)
@click.option("--sheet", type=click.Path(dir_okay=False), help="Write a PNG with the previews of those listed.")
@options.force
@takes_frame
def list_(
    frame: Frame,
    patterns: tuple[str, ...],
    where: str | None,
    sort: str,
    limit: int | None,
    columns: str | None,
    as_csv: bool,
    at: str | None,
    sheet: str | None,
    force: bool,
) -> None:
    """List identities (their newest active versions): all, or those whose names contain NAME or match a pattern.

    \b
    w2w-reg list alice
    w2w-reg list 'acme/*' --where "tag.team = 'ads'" --columns identity,aliases,label.beard --csv
    w2w-reg list --at 2026-05-01
    """
    from w2w_registry.services.identities import browsing

    shown = browsing.columns_of(columns)
    rows = browsing.browse(frame.registry(), patterns, where=where, sort=sort, limit=limit, at=at)
    if sheet is not None:
        from w2w_registry.services.identities.search_sheet import write_list_sheet

        listed = [(row["identity"], row["version"]) for row in rows]
        write_list_sheet(frame.registry(), listed, sheet, force=force)

    def cells() -> list[dict[str, Any]]:
        return [{name: browsing.cell(row, name) for name in shown} for row in rows]

    def human() -> None:
        if as_csv:
            print_csv(cells(), shown)
            return
        filtered = where or patterns or at
        used = [c for c in shown if columns or c not in ("held", "aliases", "tags") or any(row[c] for row in rows)]
        table(cells(), used, empty="no identities match" if filtered else "no identities yet; `w2w-reg add PATH…`")

    emit(frame, cells() if columns else rows, human)
