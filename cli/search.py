"""``w2w-reg search``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, table, warn

CERTAINTY = {
    "certified": "nobody else reaches the threshold; further down, a match may be missing",
    "approximate": "a match may be missing, fewer than one in a hundred; --exact compares with everyone",
}


@click.command()
@click.argument("query", metavar="QUERY")
@click.option(
    "-k", "--limit", metavar="N", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Show at most N."
)
@click.option("--space", metavar="NAME[@V]", help="Weight space to search in (default: the query's, or the newest).")
@click.option("--where", metavar="EXPR", help='Only identities for which this holds, as in "kind = person".')
@click.option("--include-blocked", is_flag=True, help="Include versions blocked by consent.")
@click.option("--exact", is_flag=True, help="Compare with every version; a large index compares with likely ones only.")
@click.option("--certified", is_flag=True, help="Prove that nobody else reaches the threshold.")
@click.option("--sheet", type=click.Path(dir_okay=False), help="Write a PNG with the previews of query and matches.")
@options.force
@takes_frame
def search(
    frame: Frame,
    query: str,
    limit: int,
    space: str | None,
    where: str | None,
    include_blocked: bool,
    exact: bool,
    certified: bool,
    sheet: str | None,
    force: bool,
) -> None:
    """Find the identities nearest to QUERY: a registered name (p0007, p0007@2, p0007@production), a LoRA
    file or folder, or a Hub repo (hf://owner/repo).

    The column "same" says whether the score means the same identity, by a threshold calibrated on the space's data.
    """
    from w2w_registry.services.hub.resolving import as_query
    from w2w_registry.services.identities.search_sheet import write_sheet
    from w2w_registry.services.recording.outputs import check_outputs
    from w2w_registry.services.search import query as service

    registry = frame.registry()
    if sheet is not None:
        check_outputs(registry, Path(sheet), force=force)
    asked = as_query(registry, query)
    found = service.search(
        registry,
        asked,
        limit=limit,
        space=space,
        where=where,
        include_blocked=include_blocked,
        exact=exact,
        certified=certified,
    )
    if sheet is not None:
        write_sheet(registry, found, sheet, force=force)

    def human() -> None:
        for text in found.warnings:
            warn(text)
        rows = [{**r, "same": r["same_identity"]} for r in found.to_json()["results"]]
        table(
            rows, ["rank", "identity", "version", "score", "same", "kind", "consent"], empty="nothing in this space yet"
        )
        if found.threshold is not None:
            note(
                f"space {found.space}, metric {found.metric}; same identity from {found.threshold:.3f} up "
                f"(false matches: {found.false_match_rate:.2g} of pairs)"
            )
        if found.certainty != "exact":
            note(f"{found.certainty} search: {CERTAINTY[found.certainty]}")

    emit(frame, found.to_json(), human)
