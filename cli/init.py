"""``w2w-reg init``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, pairs, say


@click.command()
@takes_frame
def init(frame: Frame) -> None:
    """Create the registry: home folder, catalog at the newest schema, registry.toml with the policy.

    Running it again on an existing registry changes nothing.
    """
    from w2w_registry.services import registry

    value = registry.init_registry(frame.settings())

    def human() -> None:
        say("registry ready" if value["created"] else "registry already there, nothing changed")
        pairs((k, value[k]) for k in ("home", "database", "schema"))

    emit(frame, value, human)
