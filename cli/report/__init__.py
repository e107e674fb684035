"""``w2w-reg report``: what is written for people outside."""

from __future__ import annotations

import click

from ..folder_group import FolderGroup, helps_from_commands


@click.group(cls=FolderGroup, package=__name__, helps=helps_from_commands("roi subject"))
def report() -> None:
    """Write reports for decision-makers and for the people depicted."""
