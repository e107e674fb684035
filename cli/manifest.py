"""``w2w-reg manifest``."""

from __future__ import annotations

import json

import click

from .frame import Frame, takes_frame
from .output import emit, note, say_text


@click.command()
@click.argument("name", metavar="NAME[@V]")
@takes_frame
def manifest(frame: Frame, name: str) -> None:
    """Print a version's manifest: every fact that determines it, in one canonical form with one digest."""
    from w2w_registry.services.provenance import lineage as service

    value = service.show_manifest(frame.registry(), name)

    def human() -> None:
        say_text(json.dumps(value["manifest"], indent=2, sort_keys=True, ensure_ascii=False))
        note(f"digest {value['digest']}")

    emit(frame, value, human)
