"""``w2w-reg consent invalidate``."""

from __future__ import annotations

import click

from w2w_registry.records import counted

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, say
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@shared.record
@takes_frame
def invalidate(frame: Frame, subject: str, record_id: str | None) -> None:
    """Record that a consent was never valid (forged, coerced, not theirs to give), and block whatever relied on it."""
    from w2w_registry.services.consent import withdraw as service

    value = service.invalidate(frame.registry(), subject, record_id=record_id)
    emit(
        frame,
        value,
        lambda: say(
            f"invalidated: {counted(len(value['invalidated']), 'record')}; "
            f"blocked: {counted(value['blocked'], 'version')}; "
            f"queued for takedown: {counted(value['releases_queued'], 'release')}"
        ),
    )
