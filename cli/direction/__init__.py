"""``w2w-reg direction``: attribute directions of a weight space."""

from __future__ import annotations

import click

from ..folder_group import FolderGroup, helps_from_commands


@click.group(cls=FolderGroup, package=__name__, helps=helps_from_commands("fit list show compose debias"))
def direction() -> None:
    """Fit, list, show, compose and de-bias attribute directions."""
