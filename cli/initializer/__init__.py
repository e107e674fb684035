"""``w2w-reg initializer``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "fit")
def initializer() -> None:
    """Fit the initializer for inversions: a regression from base-model features to coordinates."""
