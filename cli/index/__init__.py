"""``w2w-reg index``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "optimize")
def index() -> None:
    """Maintain the search indexes."""
