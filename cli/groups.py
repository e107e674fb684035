"""``w2w-reg groups``."""

from __future__ import annotations

import click

from w2w_registry.records import counted

from . import options
from .frame import Frame, takes_frame
from .output import chance, emit, note, say, table


@click.command()
@click.option(
    "--by", type=click.Choice(["weights", "behaviour"]), help="What to compare (default: the best available)."
)
@options.space
@click.option("--sheet", type=click.Path(dir_okay=False), help="Write a PNG with the previews, one row per group.")
@options.force
@takes_frame
def groups(frame: Frame, by: str | None, space: str | None, sheet: str | None, force: bool) -> None:
    """Find identities that are the same person under several names, the most certain first.

    Each group is shown with the score of the weakest link that holds it together, and the chance that somebody who is
    not registered finds a match as near. At most about one link in ten is expected to join two people; the last line
    says how many.
    """
    from w2w_registry.services.identities.search_sheet import write_groups_sheet
    from w2w_registry.services.search import groups as service

    registry = frame.registry()
    found = service.groups(registry, by, space=space)  # type: ignore[arg-type]
    if sheet is not None:
        write_groups_sheet(registry, found.groups, sheet, force=force)

    def human() -> None:
        rows = [
            {
                "one person": "  ".join(names),
                "score": round(link.score, 3),
                "false alarm": chance(link.false_alarm) or "unknown",
            }
            for names, link in zip(found.groups, found.weakest, strict=True)
        ]
        if rows:
            table(rows, ("one person", "score", "false alarm"))
        else:
            say("no two identities look like the same person")
        where = f", in {found.spaces} spaces each by itself" if found.spaces > 1 else ""
        note(f"{found.compared} identities compared by {found.by}{where}{_expected(found.links, found.strangers)}")

    emit(frame, found.to_json(), human)


def _expected(links: int, strangers: float | None) -> str:
    """How many of the links may join two people, said in words."""
    if not links:
        return ""
    if strangers is None:
        return "; how many of the links join two people is not known: calibrate the space"
    return f"; of {counted(links, 'link')}, about {max(strangers, 0.1):.1f} can be expected to join two people"
