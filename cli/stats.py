"""``w2w-reg stats``."""

from __future__ import annotations

from typing import Any

import click

from .frame import Frame, takes_frame
from .output import emit, pairs, say

_SHOWN = 6


@click.command()
@takes_frame
def stats(frame: Frame) -> None:
    """Count what is in the registry: identities by kind, base model, format and space, and the disk space they use."""
    from w2w_registry.services.reports import stats as service

    value = service.stats(frame.registry())

    def human() -> None:
        pairs((key, number) for key, number in value.items() if isinstance(number, int))
        pairs((f"{place} on disk", _bytes(size)) for place, size in value.bytes.items() if size)
        for title, rows in value.by.items():
            if rows:
                say()
                say("by what made them" if title == "made by" else f"by {title}")
                pairs((f"  {name}", count) for name, count in _few(rows))

    emit(frame, value, human)


def _few(rows: dict[str, int]) -> list[tuple[str, Any]]:
    shown = list(rows.items())[:_SHOWN]
    rest = sum(list(rows.values())[_SHOWN:])
    return [*shown, *([(f"{len(rows) - _SHOWN} more", rest)] if rest else [])]


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
