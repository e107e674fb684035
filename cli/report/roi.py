"""``w2w-reg report roi``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs, say, table


@click.command()
@click.option("--rates", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file with a [rates] table.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a page (.html) or costs (.csv).")
@options.needing("out", options.language)
@options.force
@takes_frame
def roi(frame: Frame, rates: Path | None, out: Path | None, language: str, force: bool) -> None:
    """Report what identities cost and brought in, computed from the log. Whatever was not measured is marked as such;
    totals are checked against the log."""
    from w2w_registry.services.recording.outputs import check_outputs
    from w2w_registry.services.reports import roi as service

    known = service.read_rates(rates)
    registry = frame.registry()
    if out is not None:
        check_outputs(registry, out, force=force)
    told = service.roi(registry, known) if out is None else service.write(registry, known, out, language)

    def human() -> None:
        rows = [
            ("cost of one usable identity", told.decision.unit_cost),
            ("currency", told.currency),
            ("payback, months", told.decision.payback.months),
            ("stop rule", told.decision.stop_rule),
        ]
        pairs(rows)
        say()
        table(told.operations, ("kind", "count", "seconds", "rate", "cost"))
        if told.totals.left_out:
            missing = "; ".join(f"{one.kind} ({one.count}, no {one.why})" for one in told.totals.left_out)
            say(f"the cost is a lower bound; it leaves out {missing}")
        sums = told.reconciliation
        say(f"{sums.events_counted} of {sums.events_in_log} events counted; difference {sums.difference}")
        if out is not None:
            say(f"wrote {out}")

    emit(frame, told, human)
