"""``w2w-reg consent renew``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@click.option("--expires", metavar="DATE", help="New last day (default: until withdrawn).")
@shared.record
@takes_frame
def renew(frame: Frame, subject: str, expires: str | None, record_id: str | None) -> None:
    """Extend the term of a consent; if it has expired, this takes two people."""
    from w2w_registry.services.consent import amendments as service
    from w2w_registry.services.consent import scopes

    value = service.renew(frame.registry(), subject, scopes.parse_day(expires, end=True), record_id=record_id)
    emit(frame, value, lambda: shared.say_record(value, "renewed"))
