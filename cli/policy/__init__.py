"""``w2w-reg policy``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "show set history")
def policy() -> None:
    """Show and change what this registry allows."""
