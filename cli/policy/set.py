"""``w2w-reg policy set``."""

from __future__ import annotations

from pathlib import Path

import click

from ..frame import Frame, takes_frame
from ..output import emit, say, warn

ONE_PERSON = (
    "one person decides alone in this registry and can bring back anybody who refused (`consent withdraw --forget`, "
    "`consent grant`, `resolve`); the log and `audit report` record each such decision"
)


@click.command(name="set")
@click.argument("items", nargs=-1, metavar="[KEY=VALUE…]")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="A file with a [policy] table.")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@takes_frame
def set_(frame: Frame, items: tuple[str, ...], file: Path | None, dry_run: bool) -> None:
    """Put the [policy] table of registry.toml (or of --file) in force, or change single keys of the policy in force:
    `policy set second_person=false`. The log records the change.

    Where several people work, a policy that allows more than before takes two of them: the second types the same
    command.
    """
    from w2w_registry.services.recording import policies

    if items and file is not None:
        raise click.UsageError("give either KEY=VALUE or --file")
    value = policies.adopt(frame.registry(), file, items=items, dry_run=dry_run)

    def human() -> None:
        for key, (before, after) in value["changes"].items():
            say(f"{key}: {before} -> {after}")
        if not value["changes"]:
            say("nothing changes")
        elif dry_run:
            say("nothing was changed (--dry-run)")
        else:
            say(f"in force: {value['digest']}")
        if value["one_person"]:
            warn(ONE_PERSON)

    emit(frame, value, human)
