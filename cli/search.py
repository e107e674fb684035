"""``w2w-reg search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from w2w_registry.records import counted

from . import options
from .frame import Frame, takes_frame
from .output import chance, emit, note, progress, say, table, warn

CERTAINTY = {
    "certified": "nobody else reaches the threshold; below it, matches may be missing",
    "approximate": "fewer than one match in a hundred is missed; --exact compares with every version",
    "fast": "about three matches in a hundred are missed; without --fast, fewer than one",
}

MORE = 'weights alone say "likely" at most; to compare what is drawn, {}'
UNPLACED = (
    "this is in no weight space, so it is compared by its weight change (ΔW), which finds the same model in any file; "
    "to find another training of the same person by what it draws, {}"
)


def _behaviour(at_hand: bool) -> str:
    """How to compare what is drawn: where the base model is known and this was not done, fingerprints are missing."""
    return "take fingerprints: `w2w-reg fingerprint --missing`" if at_hand else "use --by behaviour --pipeline FOLDER"


@click.command()
@click.argument("queries", metavar="QUERY...", nargs=-1, required=True)
@click.option(
    "-k", "--limit", metavar="N", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Show at most N."
)
@click.option("--space", metavar="NAME[@V]", help="Weight space to search in (default: the query's, or the newest).")
@click.option("--where", metavar="EXPR", help='Only identities that match, as in "kind = person".')
@click.option("--include-blocked", is_flag=True, help="Include versions blocked by consent.")
@click.option(
    "--exact", is_flag=True, help="Compare with every version, not only with the likely ones of a large index."
)
@click.option("--certified", is_flag=True, help="Prove that nobody else reaches the threshold.")
@click.option(
    "--fast",
    is_flag=True,
    help="Compare with fewer versions of a large index; misses about three matches in a hundred.",
)
@click.option(
    "--by",
    type=click.Choice(["weights", "behaviour", "both"]),
    help="Compare the weights, what they draw, or both (default: the best available).",
)
@options.pipeline
@options.device
@click.option(
    "--sheet", type=click.Path(dir_okay=False), help="Write a PNG with the previews of the query and its matches."
)
@options.force
@takes_frame
def search(
    frame: Frame,
    queries: tuple[str, ...],
    limit: int,
    space: str | None,
    where: str | None,
    include_blocked: bool,
    exact: bool,
    certified: bool,
    fast: bool,
    by: str | None,
    pipeline: str | None,
    device: str,
    sheet: str | None,
    force: bool,
) -> None:
    """Find the identities nearest to each QUERY: a registered name (p0007, p0007@2, p0007@production), a LoRA
    file or folder, a folder of them, a Hub repo (hf://owner/repo), or a photo (which needs the base model and is not
    registered).

    The verdict is "same" if a stranger would come as near in at most one search in a hundred, and "likely" if in at
    most one in five. Weights alone say "same" only of the very same model, however its file was saved ("same model").
    By behaviour, any adapter that the base model loads can be a query. This is the default where versions have
    fingerprints and the base model is on this machine; loading it takes seconds. An adapter in no weight space is
    compared by its weight change (ΔW), which finds the same model in any file, format and rank.
    """
    from w2w_registry.services.recording.fingerprints import opener_for
    from w2w_registry.services.recording.outputs import check_outputs
    from w2w_registry.services.search import draws as service

    if fast and (exact or certified):
        raise click.UsageError("--fast may miss matches: it cannot be combined with --exact or --certified")
    registry = frame.registry()
    if sheet is not None:
        check_outputs(registry, Path(sheet), force=force)
    asked = _asked(registry, queries, by, space, pipeline, device)
    opener = opener_for(registry, by, pipeline, device)
    found = service.search_by(
        registry,
        asked,
        by,  # type: ignore[arg-type]
        opener=opener,
        limit=limit,
        space=space,
        where=where,
        include_blocked=include_blocked,
        exact=exact,
        certified=certified,
        fast=fast,
    )
    if sheet is not None:
        _draw(registry, found, sheet, force)
    values = [one.to_json() for one in found]

    answer = values[0] if len(queries) == 1 and len(values) == 1 else {"searches": values}
    emit(frame, answer, lambda: _tables(values, _behaviour(by is None and opener is not None)))


def _draw(registry: Any, found: list[Any], sheet: str, force: bool) -> None:
    from w2w_registry.services.identities.search_sheet import write_sheet

    if len(found) > 1:
        raise click.UsageError("--sheet is for one query")
    write_sheet(registry, found[0], sheet, force=force)


def _asked(
    registry: Any, queries: tuple[str, ...], by: str | None, space: str | None, pipeline: str | None, device: str
) -> list[Any]:
    """The queries in order: photos looked at, Hub repos fetched, the rest as typed."""
    from w2w_registry.services.hub.resolving import as_queries
    from w2w_registry.services.search.found import is_photo

    photos = [text for text in queries if is_photo(text)]
    if not photos and by == "weights" and (pipeline is not None or device != "auto"):
        idle = "--device" if pipeline is None else "--pipeline"
        raise click.UsageError(f"{idle} is for comparing what is drawn: it cannot be combined with --by weights")
    if not photos:
        return as_queries(registry, queries)
    from w2w_registry.services.synthesis import looking
    from w2w_registry.services.synthesis.engine import Engine

    with progress("looking") as tick:
        engine = Engine(pipeline, device)  # type: ignore[arg-type]
        seen = dict(zip(photos, looking.as_queries(registry, photos, engine, space=space, progress=tick), strict=True))
    return [one for text in queries for one in ([seen[text]] if text in seen else as_queries(registry, [text]))]


def _tables(values: list[dict[str, Any]], behaviour: str) -> None:
    told: set[str] = set()
    for one in values:
        if len(values) > 1:
            say(f"{one['query']}:")
        _table(one, told, behaviour, alone=len(values) == 1)


def _table(found: dict[str, Any], told: set[str], behaviour: str, *, alone: bool) -> None:
    """``told``: what needs no saying again, as it was said of an earlier query; how it was compared is said once, and
    the gap to the next only of a query that is ``alone``. ``behaviour``: how to compare what is drawn."""
    for text in found["warnings"]:
        if text not in told:
            warn(text)
    columns = ["rank", "identity", "version", "score", "verdict", "false_alarm", "kind", "consent"]
    rows = [{**hit, "false_alarm": chance(hit["false_alarm"]), "verdict": _verdict(hit)} for hit in found["results"]]
    if found["by"] == "both":
        columns.insert(4, "score_weights")
    unplaced = found["space"] is None and found["by"] == "weights"
    table(rows, columns, empty="nothing to compare with yet" if unplaced else "nothing in this space yet")
    gap = "" if found["gap"] is None or not alone else f"; {found['gap']:.3g} above the next"
    how: str | None = None
    if unplaced:
        how = (
            f"compared with {counted(found['people'], 'version')}: {UNPLACED.format(behaviour)}"
            if found["people"]
            else None
        )
    elif found["by"] != "weights":
        how = f"by behaviour, {found['metric']}, among {found['people']} people{gap}"
    elif found["threshold"] is not None:
        how = (
            f"space {found['space']}, metric {found['metric']}; same identity from {found['threshold']:.3f} up "
            f"(false matches: {found['false_match_rate']:.2g} of pairs){gap}"
        )
    if how is not None and how not in told:
        note(how)
    likely = found["by"] == "weights" and any(hit["verdict"] == "likely" for hit in found["results"])
    more = MORE.format(behaviour)
    if likely and more not in told:
        note(more)
    told.update((*found["warnings"], *([more] if likely else []), *([how] if how else [])))
    if found["certainty"] != "exact":
        note(f"{found['certainty']} search: {CERTAINTY[found['certainty']]}")


def _verdict(hit: dict[str, Any]) -> str | None:
    return "same model" if hit["same_model"] else hit["verdict"]
