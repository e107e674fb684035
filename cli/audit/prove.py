"""``w2w-reg audit prove``."""

from __future__ import annotations

from pathlib import Path

import click

from w2w_registry.errors import UsageError

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, say


@click.command()
@click.argument("seq", type=options.Integer(1), metavar="[SEQ]", required=False)
@click.option(
    "--since",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="NOTE",
    help="A checkpoint kept elsewhere: prove that the newest extends it.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the proof there.")
@options.force
@takes_frame
def prove(frame: Frame, seq: int | None, since: Path | None, out: Path | None, force: bool) -> None:
    """Prove that event SEQ is in the log, or that the log still begins with the checkpoint given by --since.

    The proof (RFC 9162, as JSON) is for `verify-audit --proof`, which needs no registry.
    """
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.recording.outputs import check_outputs

    if (seq is None) == (since is None):
        raise UsageError(reason="give the number of an event, or [[since]] NOTE")
    if out is not None:
        check_outputs(frame.registry(), out, force=force)
    if since is not None:
        value = service.prove_extension(frame.registry(), service.read_notes([since])[0])
    else:
        value = service.prove(frame.registry(), seq or 0)
        if value["checkpoint"] is None:
            note("no checkpoint covers this event yet: run `w2w-reg audit checkpoint` to have it signed")
    frame.json = frame.json or out is None
    if out is not None:
        service.write_json(value, out)
    emit(frame, value, lambda: say(str(out)))
