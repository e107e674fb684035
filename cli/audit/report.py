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
    help="Page to write (.html or .md).",
)
@click.option(
    "--since",
    cls=options.Renamed,
    former=("--from",),
    metavar="DATE",
    help="The period's first day (default: the log's).",
)
@click.option(
    "--until",
    cls=options.Renamed,
    former=("--to",),
    metavar="DATE",
    help="The period's last day (default: today).",
)
@options.days
@options.language
@options.force
@takes_frame
def report(frame: Frame, out: Path, since: str | None, until: str | None, days: int, language: str, force: bool) -> int:
    """Write a report for a regulator. Exit 6 if the log does not verify.

    It states who is responsible ([organisation] in registry.toml), whether the log verifies, what was decided about
    people's consent and under which policy, what is published without consent, how long withdrawals took, and how much
    is marked.
    """
    from w2w_registry.services.consent.scopes import parse_day
    from w2w_registry.services.recording.outputs import check_outputs
    from w2w_registry.services.reports import regulator as service

    period = service.Period(parse_day(since, end=False), parse_day(until, end=True))
    check_outputs(frame.registry(), out, force=force)
    value = service.write(frame.registry(), out, period, days=days, language=language)

    def human() -> None:
        say(value.path)
        pairs((table["key"].replace("_", " "), counted(len(table["rows"]), "row")) for table in service.tables(value))

    emit(frame, value, human)
    return 0 if value.ok else 6
