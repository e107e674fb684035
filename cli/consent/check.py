"""``w2w-reg consent check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from ..frame import Frame, takes_frame
from ..output import emit, pairs, say


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--use", "uses", multiple=True, metavar="USE", help="Only these uses (repeatable; default: all).")
@click.option("--purpose", metavar="WHAT", help="Purpose (default: the registry's).")
@click.option("--territory", metavar="CODE", help="Territory (default: the registry's).")
@click.option("--at", metavar="DATE", help="Point in time (default: now).")
@takes_frame
def check(
    frame: Frame, name: str, uses: tuple[str, ...], purpose: str | None, territory: str | None, at: str | None
) -> int:
    """Show what may be done with a version, what may not, and why. Exit 4 if a use named with --use is denied."""
    from w2w_registry.services.consent import scopes
    from w2w_registry.services.consent import showing as service

    chosen: dict[str, Any] = {"uses": uses} if uses else {}
    value = service.check(
        frame.registry(), name, purpose=purpose, territory=territory, at=scopes.parse_day(at, end=False), **chosen
    )

    def human() -> None:
        decisions = value["decisions"]
        allowed = [d["use"] for d in decisions if d["allowed"]]
        pairs(
            (
                ("version", value["version"]),
                ("consent", value["consent"]),
                ("purpose", value["purpose"]),
                ("allowed", ", ".join(allowed) or "nothing"),
                ("not allowed", ", ".join(d["use"] for d in decisions if not d["allowed"])),
            )
        )
        for kind in ("reasons", "warnings"):
            _said(kind, decisions)

    emit(frame, value, human)
    return 4 if uses and not all(d["allowed"] for d in value["decisions"]) else 0


def _said(kind: str, decisions: Sequence[Mapping[str, Any]]) -> None:
    """Each sentence once, with the uses that it speaks of."""
    uses: dict[str, list[str]] = {}
    for decision in decisions:
        for sentence in decision[kind]:
            uses.setdefault(sentence, []).append(decision["use"])
    if uses:
        say()
    for sentence, of in uses.items():
        say(f"{', '.join(of)}: {sentence}" if kind == "reasons" else f"warning: {sentence} ({', '.join(of)})")
