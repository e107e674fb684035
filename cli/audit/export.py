"""``w2w-reg audit export``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@options.force
@takes_frame
def export(frame: Frame, out: Path, force: bool) -> None:
    """Write the whole log as JSON Lines, which can be checked anywhere with examples/verify_audit.py."""
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.recording.outputs import check_outputs

    check_outputs(frame.registry(), out, force=force)
    value = service.export(frame.registry(), out)
    emit(frame, value, lambda: pairs((key.replace("_", " "), value[key]) for key in value))
