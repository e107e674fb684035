"""The one output sink: tables for people, JSON for programs, progress and messages on stderr.

Everything a person reads passes :func:`clean` here, so that no name, tag or label can command a terminal.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from w2w_registry.errors import RegistryError, StorageError, spelt
from w2w_registry.records import FORMULA, counted

from . import loudness

if TYPE_CHECKING:
    from .frame import Frame

Progress = Callable[[int, int], None]


# DEL and C1, line separators, bidirectional overrides, halves of characters (from file names that are not UTF-8)
_BEYOND_ASCII = r"\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_HARMFUL = re.compile(rf"[\x00-\x1f{_BEYOND_ASCII}]")
_HARMFUL_IN_TEXT = re.compile(rf"(?![\n\t])[\x00-\x1f{_BEYOND_ASCII}]")
_HARMFUL_IN_JSON = re.compile(rf"[{_BEYOND_ASCII}]")


_WIDEST = 72  # characters of a cell


def clean(text: str, *, lines: bool = False) -> str:
    """``text`` with every character that commands a terminal shown as ``\\x1b`` and the like; with ``lines`` line
    breaks and tabs stay."""
    pattern = _HARMFUL_IN_TEXT if lines else _HARMFUL
    return pattern.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def emit(frame: Frame, value: Any, human: Callable[[], None]) -> None:
    """Print ``value`` as JSON when asked, else let ``human`` print it.

    A reader that leaves early (``head``, ``less``) is no failure: the rest is dropped and the command goes on to its
    own exit code.
    """
    with reader_may_leave():
        if frame.json:
            print_json(value)
        else:
            human()


def print_json(value: Any) -> None:
    """``value`` as indented JSON on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
    click.echo(_HARMFUL_IN_JSON.sub(lambda m: f"\\u{ord(m[0]):04x}", text))


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Around all output: what a closed pipe no longer takes is dropped.

    Raises:
        StorageError: the file that stdout goes to takes no more.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _drop_the_rest(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise StorageError(path="the output", reason=error.strerror or str(error)) from error


def open_standard_streams() -> None:
    """Open what a caller closed of the three streams (``>&-``): the next file to be opened, a database say, would get
    its number, and whatever is printed would be written into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Remarks(sys.stderr.buffer, sys.stderr.encoding, "backslashreplace", line_buffering=True)
    if sys.stdout is sys.__stdout__ and isinstance(out := sys.stdout, io.TextIOWrapper):
        sys.stdout = _Answers(out.buffer, out.encoding, out.errors, line_buffering=out.line_buffering)


def _drop_the_rest(stream: TextIO) -> None:
    """What is still buffered has to go somewhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Remarks(io.TextIOWrapper):
    """stderr that may be full, or read by nobody any more: what is done matters more than what is said of it."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            _drop_the_rest(self)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _drop_the_rest(self)


class _Answers(io.TextIOWrapper):
    """stdout that remembers what kept it from taking an answer."""

    lost: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.lost = error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.lost = error
            raise


def output_lost(error: OSError) -> StorageError | None:
    """What to say of an error that came of printing an answer or a help text; None when it came of anything else."""
    if not isinstance(sys.stdout, _Answers) or sys.stdout.lost is not error:
        return None
    _drop_the_rest(sys.stdout)
    return StorageError(path="the output", reason=error.strerror or str(error))


def say(text: object = "") -> None:
    """One line of the answer on stdout."""
    click.echo(clean(str(text)))


def say_text(text: str) -> None:
    """An answer of several lines on stdout, as it is but for what would command the terminal."""
    click.echo(clean(text.rstrip("\n"), lines=True))


def _plain(value: Any) -> Any:
    from datetime import datetime
    from pathlib import Path

    from w2w_registry.records import Result, iso

    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    raise TypeError(f"cannot print {type(value).__name__}")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str = "nothing found") -> None:
    """An aligned table on stdout; ``empty`` when there are no rows.

    Cells are cut only on a terminal that has no room for them, and never in the last column; what goes to a file or
    another program is whole.
    """
    if not rows:
        say(empty)
        return
    heads = [column.replace("_", " ") for column in columns]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if sys.stdout.isatty() and sum(_widths([heads, *cells])) + 2 * len(heads) > shutil.get_terminal_size().columns:
        cells = [[*map(_shortened, line[:-1]), line[-1]] for line in cells]
    numeric = [all(_is_number(row.get(column)) for row in rows) for column in columns]
    # One long name must not push every other row's columns off the screen.
    widths = [min(width, _WIDEST) for width in _widths([heads, *cells])]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    click.echo(click.style(line(heads), bold=True))
    for values in cells:
        click.echo(line(values))


def print_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as CSV on stdout: whole values, empty where there are none; what a spreadsheet would run is quoted."""
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row.get(column) for column in columns]
        writer.writerow(["" if value in (None, {}, [], ()) else _harmless(value) for value in values])
    click.echo(clean(out.getvalue().rstrip("\n"), lines=True))


def _harmless(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    text = _text(value)
    return f"'{text}" if text[:1] in FORMULA and not _is_number(value) else text


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 20]}…{text[-19:]}"


def facts(value: Mapping[str, Any]) -> None:
    """What was answered, field by field, but for warnings and notes, which standard error has."""
    pairs((key, one) for key, one in value.items() if key not in ("warnings", "notes"))


def pairs(items: Iterable[tuple[str, Any]]) -> None:
    """Aligned ``key  value`` lines; keys without a value are left out."""
    shown = [(key, _cell(value)) for key, value in items if value not in (None, "", [], {})]
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        click.echo(f"{click.style(key.ljust(width), bold=True)}  {value}")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    return clean(_text(value))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_text(v)}" for k, v in value.items() if v not in ([], (), ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value)
    return str(_plain(value)) if not isinstance(value, (str, int)) else str(value)


def note(text: str) -> None:
    """A remark for the person, on stderr, so that stdout stays data; silent with ``-q``."""
    loudness.write("note", text)
    if loudness.is_quiet():
        return
    click.echo(clean(text), err=True)


def told_changes(value: Mapping[str, Sequence[str]]) -> None:
    """What a change of many did."""
    for name in value["changed"][:20]:
        say(name)
    if len(value["changed"]) > 20:
        note(f"… {len(value['changed']) - 20} more (--json lists them)")
    note(f"{len(value['changed'])} changed, {len(value['unchanged'])} unchanged")


def warn(text: str) -> None:
    loudness.write("warning", text)
    click.echo(f"{click.style('warning:', fg='yellow')} {clean(text)}", err=True)


def warn_unmatched(rows: Sequence[str], what: str) -> None:
    """Rows of a table of labels that match no ``what`` (identity, file): counted, the first of them named."""
    if rows:
        first = ", ".join(repr(row) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        more = " (--json lists all)" if len(rows) > 5 else ""
        warn(
            f"{counted(len(rows), 'row')} of the labels match{'es' if len(rows) == 1 else ''} no {what}: {first}{more}"
        )


def warn_all(texts: Iterable[str]) -> None:
    for text in texts:
        warn(text)


@contextmanager
def progress(label: str, beside: Callable[[], str] = str) -> Iterator[Progress]:
    """A progress callback ``(done, total)``; draws a bar on stderr, nothing when stderr is not a terminal. ``beside``:
    asked for what is to be said beside the label. A ``total`` of 0 is one that is not known."""
    if not sys.stderr.isatty() or loudness.is_quiet():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(
            task, completed=done, total=total or None, description=f"{label} {beside()}".strip()
        )


def report_error(error: RegistryError, *, as_json: bool) -> None:
    """One line on stderr: what is wrong and what to do; with ``--json`` an ``{"error": …}`` object."""
    from w2w_registry.messages import message

    report(error.code, message(error), error.exit_code, error.fields, as_json=as_json)


def report(code: str, text: str, exit_code: int, fields: Mapping[str, Any], *, as_json: bool) -> None:
    """An error on stderr, for a person or as JSON."""
    loudness.write("error", text)
    if as_json:
        body = {"code": code, "message": text, "exit_code": exit_code, "fields": _spelt(fields)}
        click.echo(json.dumps({"error": body}, ensure_ascii=True, default=str), err=True)
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {clean(text)}", err=True)


def _spelt(value: Any) -> Any:
    """Plain values with the options of a request as they are typed."""
    if isinstance(value, str):
        return spelt(value, "--{}".format)
    if isinstance(value, Mapping):
        return {key: _spelt(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelt(item) for item in value]
    return value


def chance(value: float | None) -> str | None:
    """A chance as people read it: to two digits, rounded up, so that none looks as if it were within a line that it is
    beyond, and never as nought."""
    if value is None or value < 1e-6:
        return None if value is None else "< 1e-06"
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / digit - 1e-9) * digit:.2g}"


def report_bug(error: Exception) -> None:
    click.echo(f"bug: {type(error).__name__}: {error}. Please report it with the traceback below.", err=True)
