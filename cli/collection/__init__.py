"""``w2w-reg collection``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "add remove list show")
def collection() -> None:
    """Group identities under a name; an identity can be in several collections.

    \b
    w2w-reg collection add summer alice bob
    w2w-reg collection add summer --where "tag.team = 'ads'"
    w2w-reg collection show summer
    """
