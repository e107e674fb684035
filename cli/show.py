"""``w2w-reg show``."""

from __future__ import annotations

from typing import Any

import click

from .frame import Frame, takes_frame
from .output import emit, pairs, say, table


@click.command()
@click.argument("name", metavar="NAME[@V]")
@takes_frame
def show(frame: Frame, name: str) -> None:
    """Show one identity: its versions, coordinates digest, operation, labels, tags and aliases."""
    from w2w_registry.services.identities import manage

    value = manage.show(frame.registry(), name)

    def human() -> None:
        skip = {"versions", "operation", "hold"}
        facts = [(k.replace("_", " "), v) for k, v in value.items() if k not in skip and (k != "held" or v)]
        operation = value["operation"]
        made_by = f"{operation['kind']} by {operation['agent']} at {operation['started_at']}"
        pairs([*facts, ("file", _file(operation["params"])), ("made by", made_by)])
        say()
        table(value["versions"], ["version", "state", "space", "residual", "operation", "created"])

    emit(frame, value, human)


def _file(params: dict[str, Any]) -> str | None:
    """What file an import came in, in a phrase: its format, ranks, numbers and layers."""
    if "format" not in params:
        return None
    ranks = "/".join(params.get("ranks", ()))
    layers = [f"{count} {part}" for part, count in params.get("layers", {}).items()]
    said = [params["format"], ranks and f"rank {ranks}", params.get("dtype"), layers and f"layers: {', '.join(layers)}"]
    return ", ".join(filter(None, said))
