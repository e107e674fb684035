"""``w2w-reg direction``: attribute directions of a weight space."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "fit list show compose debias")
def direction() -> None:
    """Fit, list, show, compose and de-bias attribute directions."""
