"""``w2w-reg space``: weight spaces."""

from __future__ import annotations

import click

from ..folder_group import FolderGroup, helps_from_commands


@click.group(
    cls=FolderGroup, package=__name__, helps=helps_from_commands("fit import list show map export refit update migrate")
)
def space() -> None:
    """Fit, update, import, list, show, map and export weight spaces."""
