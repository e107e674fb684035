"""``w2w-reg config``."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "show set unset")
def config() -> None:
    """Show and change settings: paths of base models, database, Hub.

    \b
    w2w-reg config show
    w2w-reg config set pipelines.SG161222/Realistic_Vision_V5.1_noVAE ~/models/rv51
    w2w-reg config unset hub.endpoint
    """
