"""What was hardly meant: an option given twice, of which one value would be dropped without a word, and an empty value,
which a shell makes of a variable that is not set, and which as a path would mean the folder at hand."""

from __future__ import annotations

from typing import Any

import click

_MAY_BE_EMPTY = frozenset({"prompt", "negative", "text", "value"})
"""Prose, by the parameter's name, of which nothing is something to say; so is an option's default of ""."""


def refuse_unmeant(command: click.Command) -> click.Command:
    """``command``, which now refuses empty values, and an option given again though only one value can count."""
    if "make_parser" in vars(command):
        return command
    made = command.make_parser

    def make_parser(ctx: click.Context) -> Any:
        parser = made(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> tuple[dict[str, Any], list[str], list[click.Parameter]]:
            values, rest, order = parse(args)
            for option in order:
                if isinstance(option, click.Option) and _single(option) and order.count(option) > 1:
                    raise click.UsageError(f"{option.opts[0]} is given {order.count(option)} times; give it once.", ctx)
            for param in command.params:
                _refuse_empty(param, values.get(str(param.name)), ctx)
            return values, rest, order

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    command.make_parser = make_parser  # type: ignore[method-assign]
    return command


def _single(option: click.Option) -> bool:
    """Whether one value counts; the same plain flag again says nothing new."""
    return not option.multiple and not option.count and not (option.is_flag and not option.secondary_opts)


def _refuse_empty(param: click.Parameter, given: object, ctx: click.Context) -> None:
    """Raises:
    UsageError: one of the values is empty, and the parameter is no prose."""
    if param.name in _MAY_BE_EMPTY or param.default == "":
        return
    if "" in given if isinstance(given, (list, tuple)) else given == "":
        name = param.opts[0] if isinstance(param, click.Option) else param.make_metavar(ctx)
        name = f"one of {name}" if param.nargs == -1 else name
        raise click.UsageError(f"{name} is empty (a variable that is not set?).", ctx)
