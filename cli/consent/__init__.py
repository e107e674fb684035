"""``w2w-reg consent``: what subjects agreed to, and taking it back."""

from __future__ import annotations

import click

from ..folder_group import FolderGroup, helps_from_commands


@click.group(
    cls=FolderGroup,
    package=__name__,
    helps=helps_from_commands("request sign grant narrow renew withdraw invalidate dispute resolve show receipt check"),
)
def consent() -> None:
    """Ask for, record, check and withdraw consent."""
