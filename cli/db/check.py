"""``w2w-reg db check``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, say


@click.command()
@takes_frame
def check(frame: Frame) -> int:
    """Check that the schema is the one this release needs: revision, tables, columns, triggers. Exit 6 if not."""
    from w2w_registry.services import registry

    value = registry.check_schema(frame.settings())

    def human() -> None:
        say("the schema is as it should be" if not value.differences else "schema differs:")
        for text in value.differences:
            say(f"  {text}")

    emit(frame, value.to_json(), human)
    return 6 if value.differences else 0
