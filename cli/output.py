"""The one output sink: tables for people, JSON for programs, progress and messages on stderr."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from w2w_registry.errors import RegistryError

if TYPE_CHECKING:
    from w2w_registry.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
Progress = Callable[[int, int], None]


@dataclass
class Frame:
    """What the options before (or after) the command's name say; carried as ``ctx.obj``."""

    home: str | None = None
    database: str | None = None
    actor: str | None = None
    json: bool = False

    def settings(self) -> Settings:
        from w2w_registry.settings import load_settings

        return load_settings(self.home, self.database, actor=self.actor)


def _into_frame(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if value not in (None, False):
        setattr(ctx.find_root().obj, str(param.name), value)
    return value


def command_options(function: F) -> F:
    """Options every command takes: ``--json``, and ``--home``/``--database`` also after the command's name."""
    for option in (
        click.option("--json", is_flag=True, expose_value=False, callback=_into_frame, help="Print JSON."),
        click.option("--database", metavar="URL", expose_value=False, callback=_into_frame, hidden=True),
        click.option("--home", type=click.Path(), expose_value=False, callback=_into_frame, hidden=True),
    ):
        function = option(function)
    return function


def takes_frame(function: F) -> F:
    """Pass the :class:`Frame` as the command's first argument."""

    @click.pass_context
    @functools.wraps(function)
    def inner(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        return ctx.invoke(function, ctx.find_root().obj, *args, **kwargs)

    return command_options(inner)  # type: ignore[return-value]


def emit(frame: Frame, value: Any, human: Callable[[], None]) -> None:
    """Print ``value`` as JSON when asked, else let ``human`` print it."""
    if frame.json:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))
    else:
        human()


def _plain(value: Any) -> Any:
    from datetime import datetime
    from pathlib import Path

    from w2w_registry.records import iso

    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    raise TypeError(f"cannot print {type(value).__name__}")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str = "nothing found") -> None:
    """An aligned table on stdout; ``empty`` when there are no rows."""
    if not rows:
        click.echo(empty)
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    numeric = [all(_is_number(row.get(column)) for row in rows) for column in columns]
    heads = [column.replace("_", " ") for column in columns]
    widths = [max(len(heads[i]), *(len(line[i]) for line in cells)) for i in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    click.echo(click.style(line(heads), bold=True))
    for values in cells:
        click.echo(line(values))


def pairs(items: Iterable[tuple[str, Any]]) -> None:
    """Aligned ``key  value`` lines; keys without a value are left out."""
    shown = [(key, _cell(value)) for key, value in items if value not in (None, "", [], {})]
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        click.echo(f"{click.style(key.ljust(width), bold=True)}  {value}")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_cell(v)}" for k, v in value.items() if v not in ([], (), ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(v) for v in value)
    return str(_plain(value)) if not isinstance(value, (str, int)) else str(value)


def note(text: str) -> None:
    """A remark for the person, on stderr, so that stdout stays data."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A progress callback ``(done, total)``; draws a bar on stderr, nothing when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def report_error(error: RegistryError, *, as_json: bool) -> None:
    """One line on stderr: what is wrong and what to do; with ``--json`` an ``{"error": …}`` object."""
    from .messages import message

    text = message(error)
    if as_json:
        body = {"code": error.code, "message": text, "exit_code": error.exit_code, "fields": error.fields}
        click.echo(json.dumps({"error": body}, ensure_ascii=False, default=str), err=True)
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)


def report_bug(error: Exception) -> None:
    click.echo(f"bug: {type(error).__name__}: {error}. Please report it with the traceback below.", err=True)
