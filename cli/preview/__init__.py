"""``w2w-reg preview``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "draw set")
def preview() -> None:
    """Set and draw previews: the small pictures that lists, sheets and the gallery show."""
