"""``w2w-reg tag``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "set unset")
def tag() -> None:
    """Set and unset tags of identities."""
