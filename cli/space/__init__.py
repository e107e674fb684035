"""``w2w-reg space``: weight spaces."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "fit import list show map export refit update migrate")
def space() -> None:
    """Fit, update, import, list, show, map and export weight spaces."""
