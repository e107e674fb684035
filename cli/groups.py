"""``w2w-reg groups``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, say


@click.command()
@click.option(
    "--by", type=click.Choice(["weights", "behaviour"]), help="What to compare (default: the best available)."
)
@options.space
@click.option("--sheet", type=click.Path(dir_okay=False), help="Write a PNG with the previews, a row for each group.")
@options.force
@takes_frame
def groups(frame: Frame, by: str | None, space: str | None, sheet: str | None, force: bool) -> None:
    """Find identities that are one person under several names, the most certain first."""
    from w2w_registry.services.identities.search_sheet import write_groups_sheet
    from w2w_registry.services.search import groups as service

    registry = frame.registry()
    found = service.groups(registry, by, space=space)  # type: ignore[arg-type]
    if sheet is not None:
        write_groups_sheet(registry, found.groups, sheet, force=force)

    def human() -> None:
        for names in found.groups:
            say("  ".join(names))
        if not found.groups:
            say("nobody is there twice")
        note(f"{found.compared} identities compared by {found.by}")

    emit(frame, found.to_json(), human)
