"""``w2w-reg audit checkpoint``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, say_text


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the signed note there.")
@options.force
@takes_frame
def checkpoint(frame: Frame, out: Path | None, force: bool) -> None:
    """Verify the log and sign its length and Merkle root. Keep a copy elsewhere: it proves what the log held."""
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.recording.outputs import check_outputs

    if out is not None:
        check_outputs(frame.registry(), out, force=force)
    value = service.checkpoint(frame.registry(), out=out)

    def human() -> None:
        if not value["created"]:
            note("nothing has happened since the last checkpoint")
        say_text(value["note"])
        note(f"public key {value['public_key']}")

    emit(frame, value, human)
