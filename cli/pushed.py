"""How a push is shown."""

from __future__ import annotations

from typing import Any

from .frame import Frame
from .output import emit, note, say, warn


def show_push(frame: Frame, value: dict[str, Any], dry_run: bool) -> None:
    def human() -> None:
        for text in value["warnings"]:
            warn(text)
        if dry_run or not value["changed"]:
            for line in value["plan"]:
                say(line)
            return
        say(f"{value['repo']}  {value['access']}  {value['commit'][:12]}  {value['tag']}")
        if value.get("attested_by"):
            note(f"how it was made is attested with key {value['attested_by'][:16]}")

    emit(frame, value, human)
