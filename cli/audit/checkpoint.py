"""``w2w-reg audit checkpoint``."""

from __future__ import annotations

from pathlib import Path

import click

from ..frame import Frame, takes_frame
from ..output import emit, note, say_text


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the signed note there.")
@takes_frame
def checkpoint(frame: Frame, out: Path | None) -> None:
    """Verify the log and sign its length and Merkle root. Keep a copy out of reach: it proves what was there."""
    from w2w_registry.services.audit import log as service

    value = service.checkpoint(frame.registry(), out=out)

    def human() -> None:
        if not value["created"]:
            note("nothing happened since the last checkpoint")
        say_text(value["note"])
        note(f"public key {value['public_key']}")

    emit(frame, value, human)
