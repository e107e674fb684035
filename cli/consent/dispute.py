"""``w2w-reg consent dispute``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@shared.record
@takes_frame
def dispute(frame: Frame, subject: str, record_id: str | None) -> None:
    """Suspend a consent that somebody contests."""
    from w2w_registry.services.consent import amendments as service

    value = service.dispute(frame.registry(), subject, record_id=record_id)
    emit(frame, value, lambda: shared.say_record(value, "suspended"))
