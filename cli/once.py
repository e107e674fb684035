"""Options given twice: an error, as everything that would otherwise be dropped without a word."""

from __future__ import annotations

from typing import Any

import click


def refuse_repeats(command: click.Command) -> click.Command:
    """``command``, which now refuses an option that is given again though only one value can count."""
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
            return values, rest, order

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    command.make_parser = make_parser  # type: ignore[method-assign]
    return command


def _single(option: click.Option) -> bool:
    """Whether one value counts; the same plain flag again says nothing new."""
    return not option.multiple and not option.count and not (option.is_flag and not option.secondary_opts)
