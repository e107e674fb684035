"""``w2w-reg db current``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, pairs


@click.command()
@takes_frame
def current(frame: Frame) -> None:
    """Show the schema's revision, and the one this release needs."""
    from w2w_registry.services import registry

    value = registry.current_schema(frame.settings())
    emit(frame, value.to_json(), lambda: pairs(value.to_json().items()))
