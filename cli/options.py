"""Options that several commands take, each written once, and what becomes of their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from w2w_registry.records import Kind, composed

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """One decorator that adds ``options``, shown in this order."""

    def apply(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


def needing(names: str, *options: Decorator[Any]) -> Decorator[Any]:
    """``options`` that do nothing unless one of ``names`` is given too (parameters, where the command has them):
    typed alone they are an error (:mod:`.once`)."""
    return _marked("needs", names, *options)


def excluding(names: str, *options: Decorator[Any]) -> Decorator[Any]:
    """``options`` that would do nothing beside one of ``names``: typed together they are an error."""
    return _marked("excludes", names, *options)


def _marked(mark: str, names: str, *options: Decorator[Any]) -> Decorator[Any]:
    def apply(function: Any) -> Any:
        before = len(getattr(function, "__click_params__", ()))
        function = together(*options)(function)
        for param in function.__click_params__[before:]:
            setattr(param, mark, names.split())
        return function

    return apply


class Integer(click.IntRange):
    """An integer from ``least`` on that a database can hold."""

    def __init__(self, least: int) -> None:
        super().__init__(least, 2**63 - 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(click.INT.convert(value, param, ctx))
        if number > 2**63 - 1:
            self.fail(f"{value} is too large: at most {2**63 - 1}", param, ctx)
        return int(super().convert(number, param, ctx))

    def _describe_range(self) -> str:
        return f"x>={self.min}"


class OneOf(click.ParamType[str]):
    """One of the words that ``module`` lists as ``name``: loaded when one is typed, so that help stays quick."""

    name = "word"

    def __init__(self, module: str, name: str) -> None:
        self._module, self._list = module, name

    def choice(self) -> click.Choice[str]:
        return click.Choice(getattr(import_module(self._module), self._list))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return self.choice().convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return self.choice().shell_complete(ctx, param, incomplete)


class Folder(click.Path):
    """A folder that is there: click lets a device or a pipe pass for one."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not os.path.isdir(found):
            self.fail(f"{str(value)!r} is not a folder", param, ctx)
        return found


class Renamed(click.Option):
    """An option that still answers to the names it had (``former``), which no help shows."""

    def __init__(self, *args: Any, former: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._former = former

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        now, self.opts = self.opts, [*self.opts, *self._former]
        super().add_to_parser(parser, ctx)
        self.opts = now


space = click.option("--space", metavar="NAME[@V]", help="Weight space (default: the newest).")
where = click.option(
    "--where", metavar="EXPR", help="Filter, as in \"kind = person and beard > 0.5 and tag.team = 'ads'\"."
)
limit = click.option("--limit", metavar="N", type=Integer(1), help="Show at most N.")
kind = click.option(
    "--kind", default=str(Kind.PERSON), show_default=True, type=click.Choice([*map(str, Kind)]), help="What it depicts."
)


class Word(click.ParamType[str]):
    """A name or an id: in Unicode's composed form, however it was typed."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return composed(str(value))


subjects = click.option(
    "--subject", "subjects", multiple=True, type=Word(), metavar="ID", help="Whom it depicts (repeatable)."
)
labels = click.option(
    "--label", "labels", multiple=True, metavar="K=V", help="Label, with a number or text as its value (repeatable)."
)
purpose = click.option("--purpose", metavar="PURPOSE", help="Purpose, as written in the consent record.")
prefix = excluding(
    "name",
    click.option("--prefix", default="", help="Prefix for every name taken from a file or folder, as in 'acme/'."),
)
prompt = click.option("--prompt", help="The prompt the LoRAs were trained with (default: 'photo of sks person').")
seed = click.option("--seed", default=0, show_default=True, type=Integer(0), help="Random seed.")
seeds = click.option("--seeds", default="1-4", show_default=True, help="Random seeds, as in 1-8 or 3,7.")
steps = click.option("--steps", default=30, show_default=True, type=click.IntRange(1, 1000), help="Denoising steps.")
guidance = click.option("--guidance", type=float, help="Guidance scale (default: the pipeline's own).")
days = click.option(
    "--days", metavar="N", type=click.IntRange(0, 36_500), default=30, show_default=True, help="How many days ahead."
)
language = click.option("--lang", "language", default="en", show_default=True, help="Language: en or ja.")
keep = click.option("--keep", default="", metavar="A,B", help="Attributes or directions to keep unchanged.")


def edits(*, required: bool) -> Decorator[Any]:
    """How far to move along which directions; ``edit`` had another name for it, ``--direction``, which still works."""
    return click.option(
        "--edit",
        "edits",
        cls=Renamed,
        former=("--direction",),
        multiple=True,
        required=required,
        metavar="EDITS",
        help="Edits, as in 'beard=+1.5, glasses=-1, hat=on' (repeatable).",
    )


replace = click.option("--replace", is_flag=True, help="Replace an existing direction of this name.")
force = needing("sheet out", click.option("--force", is_flag=True, help="Replace an existing file."))
dry_run = click.option("--dry-run", is_flag=True, help="Print the plan; change nothing.")
pipeline = click.option(
    "--pipeline", metavar="PATH|ID", help="The base model's folder or Hub id (default: the space's own id)."
)
seen_with = click.option(
    "--pipeline",
    metavar="PATH|ID",
    help="Base model, to compare what each one draws (default: as set in [pipelines] or last used by `fingerprint`).",
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda.")
dtype = click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16.")

ray = click.option("--ray", metavar="ADDRESS", help="Run on the Ray cluster at ADDRESS (auto, ray://host:10001).")

described = together(kind, subjects, labels, purpose)
"""What every command that makes something new of somebody asks about it."""
engine = together(pipeline, device, dtype)
"""What every command that runs the base model asks about it; :func:`gathered` reads them."""
access = together(
    click.option("--private", "access", flag_value="private", help="Only its owner sees it."),
    click.option("--gated", "access", flag_value="gated", help="Anyone may see it; its owner decides who downloads."),
    click.option("--public", "access", flag_value="public", help="Anyone may download it (a likeness is gated)."),
)


def gathered(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, with pipeline, device and dtype as one ``engine``; a prompt not given keeps its default."""
    from w2w_registry.services.synthesis.engine import Engine

    rest = {k: v for k, v in options.items() if k not in ("pipeline", "device", "dtype")}
    if rest.get("prompt") is None:
        rest.pop("prompt", None)
    return {**rest, "engine": Engine(options["pipeline"], options["device"], options["dtype"])}


def names_and_items(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``NAME… KEY=VALUE…`` as names and items; no name has an equals sign.

    Raises:
        UsageError: no item.
    """
    items = tuple(word for word in words if "=" in word)
    if not items:
        raise click.UsageError("no KEY=VALUE to set, as in team=ads")
    return tuple(word for word in words if "=" not in word), items


def is_one(names: tuple[str, ...]) -> bool:
    """Whether exactly one thing was named, and by its name."""
    return len(names) == 1 and not any(mark in names[0] for mark in "*?[")


def names(text: str) -> tuple[str, ...]:
    """The names in ``a, b``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
