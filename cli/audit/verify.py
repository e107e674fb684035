"""``w2w-reg audit verify``."""

from __future__ import annotations

from pathlib import Path

import click

from w2w_registry.records import counted

from ..frame import Frame, takes_frame
from ..output import emit, say, table


@click.command()
@click.option("--key", metavar="HEX", help="Public key checkpoints must be signed with (default: the registry's own).")
@click.option(
    "--checkpoint",
    "kept",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A signed checkpoint kept elsewhere.",
)
@takes_frame
def verify(frame: Frame, key: str | None, kept: tuple[Path, ...]) -> int:
    """Check the whole chain, all checkpoints, and every row against its events. Exit 6 if something is wrong."""
    from w2w_registry.services.audit import log as service

    verdict = service.verify(frame.registry(), public_key=service.read_key(key), kept=service.read_notes(kept))
    value = verdict.to_json()

    def human() -> None:
        if verdict.ok:
            held = [(verdict.events, "event"), (verdict.checkpoints, "checkpoint"), (verdict.rows, "row")]
            say(f"OK: {', '.join(counted(number, thing) for number, thing in held)} hold")
            return
        where = "" if verdict.first_bad is None else f", the first at event {verdict.first_bad}"
        say(f"FAILED: {counted(len(verdict.findings), 'finding')}{where}")
        table(value["findings"], ["seq", "code", "what", "expected", "found"])

    emit(frame, value, human)
    return 0 if verdict.ok else 6
