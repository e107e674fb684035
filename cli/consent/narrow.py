"""``w2w-reg consent narrow``."""

from __future__ import annotations

from typing import Any

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@shared.scope
@click.option("--no-derivatives", is_flag=True, help="Edits and mixes are no longer allowed.")
@click.option("--no-publication", is_flag=True, help="Publication is no longer allowed.")
@shared.record
@takes_frame
def narrow(frame: Frame, subject: str, record_id: str | None, **given: Any) -> None:
    """Narrow a consent; terms that are not given stay as they are. To widen a consent, grant a new one."""
    from w2w_registry.services.consent import amendments as service
    from w2w_registry.services.consent import scopes

    if not any(given.values()):
        raise click.UsageError("say what to narrow, as in --no-publication or --expires DATE")
    expires = scopes.parse_day(given.pop("expires"), end=True)
    value = service.narrow(
        frame.registry(),
        subject,
        lambda scope: scopes.narrowed(scope, expires_at=expires, **given),
        record_id=record_id,
    )
    emit(frame, value, lambda: shared.say_record(value, "narrowed"))
