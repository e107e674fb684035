"""``w2w-reg whose``."""

from __future__ import annotations

from pathlib import Path

import click

from .frame import Frame, takes_frame
from .output import emit, pairs, say, warn


@click.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...", type=click.Path(path_type=Path))
@takes_frame
def whose(frame: Frame, pictures: tuple[Path, ...]) -> int:
    """Find out whose PICTURE this is: identity, version, operation, lineage, and the consent of everybody upstream
    today.

    A picture is recognised by its file, by its signed metadata, or by the number in its pixels, which survives when
    all metadata is lost. Exit 3 if any picture is not known here.
    """
    from w2w_registry.services.provenance.whose import whose as ask

    found = [ask(frame.registry(), path) for path in pictures]

    def human() -> None:
        for told in found:
            if not told.found:
                marked = "made by a model, but not known here" if told.ai_generated else "carries no mark"
                say(f"{told.picture}: {marked}")
                continue
            say(told.picture)
            shown = ", ".join(one["ref"] for one in told["shows"])
            rows = [("shows", shown), *((k, told[k]) for k in ("operation", "seed", "made", "event", "consent", "by"))]
            pairs([*rows, ("made from", told["lineage"])])
            if told.by == "watermark":
                seed = "" if told["seed"] is None else " with this seed"
                say("  recognised by the number in its pixels, which can be copied onto another picture:")
                say(f"  compare with what this version draws{seed}")

    for told in found:
        for warning in told.warnings:
            warn(f"{told.picture}: {warning}")
    emit(frame, found[0] if len(found) == 1 else found, human)
    return 0 if all(told.found for told in found) else 3
