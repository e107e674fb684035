"""``w2w-reg db``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "upgrade current check")
def db() -> None:
    """Upgrade, inspect and check the catalog's schema."""
