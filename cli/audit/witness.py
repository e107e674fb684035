"""``w2w-reg audit witness``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, say_text


@click.command()
@click.argument("source", metavar="URL|FOLDER")
@click.option("--key", metavar="HEX", help="The log's public key (needed the first time you see this log).")
@click.option("--name", metavar="NAME", help="Your name as a witness, such as your domain (needed the first time).")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.w2w-witness"),
    show_default=True,
    help="Folder for your key and what you have seen.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the cosigned checkpoint there.")
@options.force
@takes_frame
def witness(
    frame: Frame, source: str, key: str | None, name: str | None, state: Path, out: Path | None, force: bool
) -> None:
    """Cosign a published log's checkpoint, if the log still begins with everything you have seen of it.

    Needs no registry. For a FOLDER, your signature is added to its checkpoint; for a URL, send the note that --out
    writes to whoever runs the log, for `w2w-reg audit publish --cosigned`. Exit 6 if the log was cut, forked or rolled
    back.
    """
    from w2w_registry.services.audit import log
    from w2w_registry.services.audit import witness as service
    from w2w_registry.services.recording.outputs import check_free

    if out is not None:
        check_free(out, force=force)
    seen = service.witness(source, state.expanduser(), name=name, log_key=log.read_key(key))
    written = service.deliver(source, seen.note, out)

    def human() -> None:
        say_text(seen.note)
        since = "seen for the first time" if seen.before is None else f"extends the {seen.before} seen before"
        note(f"{seen.size} events, {since}; cosigned as {seen.witness_key}")

    emit(frame, {**seen, "written": written}, human)
