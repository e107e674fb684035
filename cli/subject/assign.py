"""``w2w-reg subject assign``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, say, warn


@click.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@click.argument("names", nargs=-1, metavar="[NAME[@V]…]", type=options.Word())
@options.where
@click.option(
    "--evidence",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Proof, such as a signed form or a contract; its digest is kept.",
)
@options.dry_run
@takes_frame
def assign(
    frame: Frame, subject_id: str, names: tuple[str, ...], where: str | None, evidence: Path, dry_run: bool
) -> None:
    """Record that versions depict a registered subject. Somebody other than the person who added them must do this.

    \b
    w2w-reg subject assign s-17 acme/alice --evidence form.pdf
    """
    from w2w_registry.services.identities import assigning

    value = assigning.assign(frame.registry(), subject_id, names, where=where, evidence=evidence, perform=not dry_run)

    def human() -> None:
        verb = "would depict" if dry_run else "depicts"
        for ref in value["assigned"]:
            say(f"{ref} {verb} {value['subject']}")
        for ref in value["blocked"]:
            warn(f"{ref} is blocked: whoever it depicts has withdrawn")
        note(f"{len(value['assigned'])} {'would be ' if dry_run else ''}assigned, {len(value['unchanged'])} unchanged")

    emit(frame, value, human)
