"""``w2w-reg subject add``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, say, warn_all


@click.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@click.option("--kind", default="person", show_default=True, help="person, rights-holder, estate…")
@takes_frame
def add(frame: Frame, subject_id: str, kind: str) -> None:
    """Register a subject. An existing one is left unchanged (exit 0)."""
    from w2w_registry.services.consent import subjects

    value = subjects.add_subject(frame.registry(), subject_id, kind=kind)
    verb = "added" if value["created"] else "already there:"

    def human() -> None:
        warn_all(value["warnings"])
        say(f"{verb} {value['subject']} ({value['state']})")

    emit(frame, value, human)
