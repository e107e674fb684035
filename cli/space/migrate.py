"""``w2w-reg space migrate``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, facts, progress, warn_all


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--no-files", is_flag=True, help="Map coordinates even where the LoRA itself is stored.")
@click.option("--dry-run", is_flag=True, help="Only show how many identities would be placed.")
@takes_frame
def migrate(frame: Frame, source: str, target: str, no_files: bool, dry_run: bool) -> None:
    """Place every identity of space FROM in space TO as well.

    An identity whose LoRA is stored is placed exactly; for the others the coordinates are mapped, and what that
    loses is shown.
    """
    from w2w_registry.services.spaces.migrate import migrate_space

    with progress("placing") as tick:
        value = migrate_space(frame.registry(), source, target, files=not no_files, dry_run=dry_run, progress=tick)
    warn_all(value.warnings)
    emit(frame, value, lambda: facts(value))
