"""``w2w-reg consent``: what subjects agreed to, and taking it back."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "request sign grant narrow renew withdraw invalidate dispute resolve show receipt check")
def consent() -> None:
    """Ask for, record, check and withdraw consent."""
