"""``w2w-reg db``."""

from __future__ import annotations

import click

from .folder_group import HintingGroup
from .frame import Frame, takes_frame
from .output import emit, pairs, progress, say


@click.group(cls=HintingGroup)
def db() -> None:
    """Upgrade, inspect and check the catalog's schema."""


@db.command()
@takes_frame
def upgrade(frame: Frame) -> None:
    """Upgrade the schema to the one this release needs, and compute what earlier releases did not store."""
    from w2w_registry.services import registry
    from w2w_registry.services.recording import sketches

    value = registry.upgrade_schema(frame.settings())
    with progress("comparing") as tick:
        shown = {**value.to_json(), "sketches": sketches.complete(frame.registry(), tick)}
    emit(frame, shown, lambda: pairs(shown.items()))


@db.command()
@takes_frame
def current(frame: Frame) -> None:
    """Show the schema's revision, and the one this release needs."""
    from w2w_registry.services import registry

    value = registry.current_schema(frame.settings())
    emit(frame, value.to_json(), lambda: pairs(value.to_json().items()))


@db.command()
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
