"""``w2w-reg audit report``."""

from __future__ import annotations

from pathlib import Path

import click

from w2w_registry.records import counted

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs, say


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="report.html or report.md",
)
@options.days
@click.option("--since", metavar="DATE", help="Only actions from this day on.")
@options.force
@takes_frame
def report(frame: Frame, out: Path, days: int, since: str | None, force: bool) -> int:
    """Write a readable report: whether the log verifies, and the main queries. Exit 6 when it does not verify."""
    from w2w_registry.services.audit import queries as service
    from w2w_registry.services.consent.scopes import parse_day
    from w2w_registry.services.recording.outputs import check_outputs

    filters = service.Filters(days=days, since=parse_day(since, end=False))
    check_outputs(frame.registry(), out, force=force)
    value = service.report(frame.registry(), out, filters)

    def human() -> None:
        say(value["path"])
        pairs((heading, counted(number, "row")) for heading, number in value["sections"].items())

    emit(frame, value, human)
    return 0 if value["ok"] else 6
