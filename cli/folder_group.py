"""Groups whose commands are files of one folder: a command is imported only to run it."""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import click

from .completion import teach
from .once import refuse_unmeant

_NUMBERS: Mapping[type[click.ParamType[Any]], str] = {
    **dict.fromkeys((click.IntRange, click.types.IntParamType), "N"),
    **dict.fromkeys((click.FloatRange, click.types.FloatParamType), "X"),
}

# What people type out of habit -> what it is called here; only ever suggested, never run. A word that is a command of
# some groups and a habit in others is in HABITS_WITHIN, with what it may be called there.
HABITS = {
    "ls": "list",
    "dir": "list",
    "rm": "remove",
    "del": "remove",
    "delete": "remove",
    "info": "show",
    "get": "show",
    "describe": "show",
    "find": "search",
    "query": "search",
    "register": "add",
    "import": "add",
    "draw": "generate",
    "log": "audit",
    "upload": "push",
    "download": "pull",
    "publish": "push",
    "create": "init",
    "settings": "config",
    "health": "doctor",
    "check": "doctor",
    "status": "stats",
    "count": "stats",
    "compare": "diff",
    "mv": "rename",
    "move": "rename",
    "cp": "copy-to",
    "star": "rate",
    "favourite": "rate",
    "favorite": "rate",
    "album": "collection",
    "thumbnail": "preview",
}
HABITS_WITHIN = {
    "add": ("set", "grant", "fit", "import"),
    "create": ("set", "add", "fit", "request"),
    "new": ("set", "add", "fit", "request"),
    "edit": ("set", "narrow", "update"),
    "change": ("set", "narrow", "update"),
    "put": ("set",),
    "rm": ("unset", "remove", "withdraw"),
    "del": ("unset", "remove", "withdraw"),
    "delete": ("unset", "remove", "withdraw"),
    "remove": ("unset", "withdraw"),
    "revoke": ("withdraw",),
    "give": ("grant",),
    "ls": ("list", "show"),
    "list": ("show",),
    "extend": ("renew",),
    "migrate": ("upgrade",),
    "status": ("current", "check"),
}


def _made_ready(command: click.Command) -> click.Command:
    """A command as all of them are here: it completes what it names, refuses what is given twice, and calls a number a
    number."""
    for param in command.params:
        if isinstance(param, click.Option) and param.metavar is None and not param.is_flag and not param.count:
            param.metavar = next((word for kind, word in _NUMBERS.items() if isinstance(param.type, kind)), None)
    return teach(refuse_unmeant(command))


class FolderGroup(click.Group):
    """A group of the commands in one package: ``name`` is the click command of that name in module ``name``
    (``push-space`` in ``push_space``, ``import`` in ``import_``). Of a word that is none of them it says which may be
    meant.

    ``helps`` maps each name to its one-line help, or to "" to take it from the command itself; with all of them given,
    listing the commands imports none. ``former`` maps names that commands had to those they have; both are run.
    ``sections`` are the names by titled section of the help, each once.
    """

    def __init__(
        self,
        *args: Any,
        package: str,
        helps: Mapping[str, str],
        former: Mapping[str, str] | None = None,
        sections: Mapping[str, Iterable[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._package, self._helps, self._former = package, helps, former or {}
        refuse_unmeant(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._helps)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = self._former.get(cmd_name, cmd_name)
        if cmd_name not in self._helps:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"{self._package}.{name}{'_' if keyword.iskeyword(name) else ''}")
        found = next(v for v in vars(module).values() if isinstance(v, click.Command) and v.name == cmd_name)
        return _made_ready(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = {}
        for name, text in self._helps.items():
            command = None if text else self.get_command(ctx, name)
            rows[name] = text if command is None else command.get_short_help_str(limit=80)
        widest = max(map(len, rows))
        for title, names in (self._sections or {"Commands": rows}).items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), rows[name]) for name in names])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0].startswith("-") or self.get_command(ctx, args[0]) is not None:
            return super().resolve_command(ctx, args)
        near = self.meant(ctx, args[0]) or difflib.get_close_matches(args[0], self.list_commands(ctx), n=2)
        hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)

    def meant(self, ctx: click.Context, word: str) -> list[str]:
        """What people who type ``word`` mean here."""
        here = self.list_commands(ctx)
        near = [name for name in (HABITS.get(word, ""), *HABITS_WITHIN.get(word, ())) if name in here][:1]
        return near or [*self._inside(ctx, word)]

    def _inside(self, ctx: click.Context, word: str) -> Iterator[str]:
        """``GROUP WORD`` for each group that has a command of this name."""
        for name in self._helps:
            command = self.get_command(ctx, name)
            if isinstance(command, click.Group) and word in command.list_commands(ctx):
                yield f"{name} {word}"


def group(package: str, names: str) -> Callable[[Callable[[], None]], FolderGroup]:
    """A group with the commands of ``names`` in ``package``: few enough to import all of them for its help."""
    helps = dict.fromkeys(names.split(), "")
    return click.group(cls=FolderGroup, package=package, helps=helps)
