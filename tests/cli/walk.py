"""Every command there is, and what of its arguments and options names a file."""

from __future__ import annotations

from collections.abc import Iterator

import click

from w2w_registry.cli.app import cli

OUTPUTS = {"out", "sheet", "new_key", "state"}
"""What arguments and options that name a file to write are called; the others are read."""


def commands(group: click.Command = cli, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """``(name, command)`` for each command, as in ``audit query``."""
    if not isinstance(group, click.Group):
        yield name, group
        return
    context = click.Context(group)
    for part in group.list_commands(context):
        inner = group.get_command(context, part)
        assert inner is not None
        yield from commands(inner, f"{name} {part}".strip())


def paths_of_commands() -> Iterator[tuple[str, click.Command, click.Parameter]]:
    """``(name, command, parameter)`` for each parameter that names a file or folder."""
    for name, command in commands():
        for one in command.params:
            hidden = isinstance(one, click.Option) and one.hidden
            if isinstance(one.type, click.Path) and not hidden and "--log-file" not in one.opts:
                yield name, command, one
