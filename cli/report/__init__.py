"""``w2w-reg report``: what is written for people outside."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "roi subject")
def report() -> None:
    """Write reports for decision-makers and for the people depicted."""
