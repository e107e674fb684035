"""``w2w-reg audit``: the log that cannot be changed unseen, and questions to it."""

from __future__ import annotations

import click

from ..folder_group import FolderGroup, helps_from_commands


@click.group(
    cls=FolderGroup,
    package=__name__,
    helps=helps_from_commands("checkpoint verify prove export publish witness query report"),
)
def audit() -> None:
    """Sign, verify, prove, export and query the audit log."""
