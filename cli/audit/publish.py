"""``w2w-reg audit publish``."""

from __future__ import annotations

from pathlib import Path

import click

from w2w_registry.records import counted

from ..frame import Frame, takes_frame
from ..output import emit, note, pairs


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER")
@click.option(
    "--cosigned",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="NOTE",
    help="A copy of the checkpoint that a witness has cosigned (repeatable).",
)
@takes_frame
def publish(frame: Frame, out: Path, cosigned: tuple[Path, ...]) -> None:
    """Write the log's checkpoint and tiles into FOLDER, for any static web host to serve.

    The folder holds hashes only. Anybody who kept an older checkpoint can tell if the log was cut, forked or
    rolled back (`verify-audit --published`); witnesses cosign it (`w2w-reg audit witness`).
    """
    from w2w_registry.services.audit import publish as service
    from w2w_registry.services.recording.outputs import check_outputs

    check_outputs(frame.registry(), out, force=True)
    value = service.publish(frame.registry(), out, cosigned=cosigned)

    def human() -> None:
        pairs((key.replace("_", " "), value[key]) for key in ("path", "origin", "size", "root", "public_key"))
        pairs([("cosigned by", value["cosigned_by"] or "nobody yet")])
        note(f"{counted(value['written'], 'file')} written, {value['unchanged']} there already")

    emit(frame, value, human)
