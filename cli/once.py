"""What was hardly meant: an option given twice, of which one value would be dropped without a word; an option that does
nothing beside another, or without one; and an empty value, which a shell makes of a variable that is not set, and which
as a path would mean the folder at hand."""

from __future__ import annotations

from typing import Any

import click

_MAY_BE_EMPTY = frozenset({"prompt", "negative", "text", "value"})
"""Prose, by the parameter's name, of which nothing is something to say; so is an option's default of ""."""


def refuse_unmeant(command: click.Command) -> click.Command:
    """``command``, which now refuses empty values, an option given again though only one value can count, and one that
    has no effect beside what else is given."""
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
            _refuse_idle(command, order, ctx)
            for param in command.params:
                _refuse_empty(param, values.get(str(param.name)), ctx)
            return values, rest, order

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    command.make_parser = make_parser  # type: ignore[method-assign]
    return command


def _refuse_idle(command: click.Command, given: list[click.Parameter], ctx: click.Context) -> None:
    """Raises:
    UsageError: an option that says the same as another, or (``needing``, ``excluding``) does nothing here."""
    for option in given:
        name = option.opts[0]
        for other in given:
            if other is not option and other.name in (option.name, *getattr(option, "excludes", ())):
                raise click.UsageError(f"{name} and {other.opts[0]} cannot be combined.", ctx)
        needs = getattr(option, "needs", ())
        wanted = [p for p in command.params if p.name in needs and isinstance(p, click.Option) and not p.required]
        if wanted and not any(p in given for p in wanted):
            raise click.UsageError(f"{name} has no effect without {' or '.join(p.opts[0] for p in wanted)}.", ctx)


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
