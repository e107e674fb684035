"""``w2w-reg consent invalidate``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, say
from . import shared


@click.command()
@click.argument("subject", metavar="SUBJECT")
@shared.record
@takes_frame
def invalidate(frame: Frame, subject: str, record_id: str | None) -> None:
    """Record that a consent never held (forged, coerced, not theirs to give), and block what hung on it."""
    from w2w_registry.services.consent import withdraw as service

    value = service.invalidate(frame.registry(), subject, record_id=record_id)
    emit(
        frame,
        value,
        lambda: say(
            f"{len(value['invalidated'])} records invalidated, {value['blocked']} versions blocked, "
            f"{value['releases_queued']} releases queued for takedown"
        ),
    )
