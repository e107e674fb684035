"""``w2w-reg alias``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "set unset")
def alias() -> None:
    """Set and unset aliases: movable names for versions, as in p0007@production."""
