"""What the Python API returns: rows with the keys of ``--json``, and sequences of them.

A row is an ordinary mapping whose keys can be read as attributes too; a sequence of rows becomes a data frame with
``to_pandas()``. Both show themselves as tables, at the prompt and in a notebook.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Final, overload

from w2w_registry.errors import MissingExtra
from w2w_registry.records import counted, iso

if TYPE_CHECKING:
    import pandas
import dataclasses
import difflib
import inspect
from collections.abc import Callable, Collection

from w2w_registry.errors import UsageError

_MOST: Final = 20
"""Rows shown at the prompt."""
_WIDEST: Final = 72
"""Characters of a value shown there."""


class Row(Mapping[str, Any]):
    """One result. ``row["score"]`` and ``row.score`` are the same; ``row.to_json()`` is what ``--json`` prints."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._values:
            return self._values[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self.__dict__['_values'])}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        width = max(map(len, self._values), default=0)
        return "\n".join(f"{key.ljust(width)}  {_short(_cell(value))}" for key, value in self._values.items())

    def to_json(self) -> dict[str, Any]:
        """The plain dictionary that ``--json`` prints."""
        return dict(self._values)

    def _repr_html_(self) -> str:
        return _table(["", ""], [[key, value] for key, value in self._values.items()])


class Rows(Sequence[Row]):
    """Results in order, with values common to all of them (``space``, ``threshold``, ``warnings``…) as attributes."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any] | None = None) -> None:
        self._rows = tuple(row if isinstance(row, Row) else Row(row) for row in rows)
        self._facts = dict(facts or {})

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        return Rows(self._rows[index], self._facts) if isinstance(index, slice) else self._rows[index]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._facts:
            return self._facts[name]
        raise AttributeError(f"these results have no {name!r}; they have {', '.join(self.__dict__['_facts'])}")

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        """The first rows, in as many columns as a line has room for; the others are named below, but for those that no
        row has a value in.
        """
        first = self._rows[:_MOST]
        columns: list[list[str]] = []
        for key in dict.fromkeys(key for row in first for key in row):
            cells = [_short(_cell(row.get(key))) for row in first]
            if any(cells):
                width = max(map(len, (key, *cells)))
                columns.append([text.ljust(width) for text in (key, *cells)])
        room = get_terminal_size((100, 24)).columns
        narrow: list[str] = []
        while len(columns) > 1 and sum(len(column[0]) + 2 for column in columns) > room:
            narrow.insert(0, columns.pop()[0].strip())
        lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
        more = f" (the first {_MOST})" if len(self) > _MOST else ""
        wide = f"; also {', '.join(narrow)}" if narrow else ""
        return "\n".join([*lines, f"[{counted(len(self), 'row')}{more}{wide}]"])

    @property
    def results(self) -> tuple[Row, ...]:
        """The rows themselves."""
        return self._rows

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries."""
        return [row.to_json() for row in self._rows]

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row per result; nested values (labels, tags) become columns such as ``labels.beard``.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtra(package="pandas", extra="pandas", feature="a data frame") from None
        return pandas.json_normalize(self.to_json())

    def _repr_html_(self) -> str:
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        return _table(columns, [[row.get(column) for column in columns] for row in self._rows])


class Pictures(Row):
    """What :meth:`Registry.generate` drew: ``files``, ``folder`` and a contact ``sheet``, which notebooks display."""

    def _repr_html_(self) -> str:
        sheet = Path(str(self["sheet"]))
        try:
            data = base64.b64encode(sheet.read_bytes()).decode()
        except OSError:
            return super()._repr_html_()
        return f'<img alt="contact sheet" src="data:image/png;base64,{data}">'


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_cell, value))
    if isinstance(value, datetime):
        return iso(value)
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _short(text: str) -> str:
    """One line that shows what a value is."""
    line = " ".join(text.split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 1]}…"


_SPELT: Final = {"fmt": "format", "from_coordinates": "coordinates"}
"""What a service calls otherwise than the command line and this API do."""


def checked(
    method: str, takes: Callable[..., Any], options: Mapping[str, Any], *, own: Collection[str] = ()
) -> dict[str, Any]:
    """``options`` by the parameters of ``takes`` that they are for.

    Args:
        method: what the caller called. own: parameters that the method fills itself.

    Raises:
        UsageError: an option that does not exist, with those that do.
    """
    names = [name for name in inspect.signature(takes).parameters if name not in {"registry", "progress", *own}]
    known = {_SPELT.get(name, name): name for name in names}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
            raise UsageError(reason=f"{method}() has no option {name!r}", hint=hint)
    return {known[name]: value for name, value in options.items()}


def plain(value: Any) -> Any:
    """``value`` as ``--json`` has it: a typed result by its own ``to_json``, a list item by item."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value
