"""``w2w-reg audit``: the log that cannot be changed unseen, and questions to it."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "checkpoint verify prove export publish witness query report")
def audit() -> None:
    """Sign, verify, prove, export and query the audit log."""
