"""``w2w-reg label``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "set unset import export")
def label() -> None:
    """Set, unset, import and export labels of identities."""
