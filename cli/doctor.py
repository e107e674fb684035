"""``w2w-reg doctor``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, say


@click.command()
@takes_frame
def doctor(frame: Frame) -> int:
    """Check that everything this registry needs is in order, and say how to fix what is not. Exit 6 if something is
    wrong. Only this machine is checked; `verify` and `audit verify` check the files and the log."""
    from w2w_registry.services.reports import doctor as service

    found = service.examine(frame.settings())

    def human() -> None:
        for one in found:
            cure = f"  -> {one.cure}" if one.cure else ""
            say(f"{_MARKS[one.state]:5} {one.check}: {one.said}{cure}")

    emit(frame, [one.to_json() for one in found], human)
    return 6 if any(one.state == "bad" for one in found) else 0


_MARKS = {"ok": "ok", "note": "note", "bad": "WRONG"}
