"""``w2w-reg policy show``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, pairs, warn
from .set import ONE_PERSON


@click.command()
@takes_frame
def show(frame: Frame) -> None:
    """Show the policy in force."""
    from w2w_registry.services.recording import policies

    value = policies.show(frame.registry())

    def human() -> None:
        pairs([("digest", value["digest"]), ("since", value["since"]), *value["rules"].items()])
        if value["one_person"]:
            warn(ONE_PERSON)
        if value["file_differs"]:
            warn("registry.toml differs, which has no effect until `w2w-reg policy set` adopts it")

    emit(frame, value, human)
