"""``w2w-reg init``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, note, pairs, say


@click.command()
@takes_frame
def init(frame: Frame) -> None:
    """Create the registry: home folder, catalog at the newest schema, registry.toml with the policy.

    Running it again on an existing registry changes nothing.
    """
    from w2w_registry.services import registry

    value = registry.init_registry(frame.settings())

    def human() -> None:
        say("the registry is ready" if value.created else "the registry exists already; nothing was changed")
        pairs((("home", value.home), ("database", value.database), ("schema", value.schema)))
        if value.created and frame.database:
            note("this registry is found with the same --database; `w2w-reg config set database.url URL` keeps it")

    emit(frame, value.to_json(), human)
