"""``w2w-reg consent request``."""

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
@shared.grants
@shared.notice
@takes_frame
def request(frame: Frame, subject: str, **given: Any) -> None:
    """Record a request for consent. It allows nothing until `consent grant --request ID`."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.consent import scopes

    scope, notice = shared.scope_of(given), scopes.build_notice(**shared.notice_of(given))
    value = service.request(frame.registry(), subject, scope, notice=notice)
    emit(frame, value, lambda: shared.say_record(value, "requested"))
