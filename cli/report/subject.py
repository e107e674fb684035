"""``w2w-reg report subject``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Page to write (.html).")
@options.language
@options.force
@takes_frame
def subject(frame: Frame, subject: str, out: Path, language: str, force: bool) -> None:
    """Write a page with everything about SUBJECT, to give to them."""
    from w2w_registry.services.recording.outputs import check_outputs
    from w2w_registry.services.reports import subject as service

    registry = frame.registry()
    check_outputs(registry, out, force=force)
    told = service.write(registry, subject, out, language)
    emit(frame, told, lambda: pairs([("wrote", told.path), *told.rows.items()]))
