"""``w2w-reg audit prove``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, say


@click.command()
@click.argument("seq", type=options.Integer(1), metavar="SEQ")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the proof there.")
@options.force
@takes_frame
def prove(frame: Frame, seq: int, out: Path | None, force: bool) -> None:
    """Prove that event SEQ is in the log (RFC 9162 inclusion proof, JSON), for examples/verify_audit.py."""
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.recording.outputs import check_outputs

    if out is not None:
        check_outputs(frame.registry(), out, force=force)
    value = service.prove(frame.registry(), seq)
    if value["checkpoint"] is None:
        note("no checkpoint covers this event yet: run `w2w-reg audit checkpoint` to have it signed")
    frame.json = frame.json or out is None
    if out is not None:
        service.write_json(value, out)
    emit(frame, value, lambda: say(str(out)))
