"""``w2w-reg consent resolve``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@click.option("--upheld/--rejected", required=True, help="Whether the consent stands.")
@shared.record
@takes_frame
def resolve(frame: Frame, subject: str, upheld: bool, record_id: str | None) -> None:
    """End a dispute: the consent is upheld, which takes two people, or invalidated."""
    from w2w_registry.services.consent import amendments as service

    value = service.resolve(frame.registry(), subject, upheld=upheld, record_id=record_id)
    emit(frame, value, lambda: shared.say_record(value, "stands again" if upheld else "invalidated"))
