"""Labels as people give them: ``k=v`` on the command line, or a CSV with one row per identity."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import label_rows
from w2w_registry.catalog.models import Label as LabelRow
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.errors import BadFile
from w2w_registry.files import read_text
from w2w_registry.records import FORMULA, assigned, composed, legal_name
from w2w_registry.services.recording.numbers import percent_beside, plain_numbers

Label = float | str
Labels = Mapping[str, Label]

_NAME_COLUMNS = ("id", "name", "identity", "file_name", "filename", "file")
_HEADER = "the first line names the columns: id,beard,…"


def parse_labels(items: Iterable[str]) -> dict[str, Label]:
    """``("beard=1", "team=ads")`` → ``{"beard": 1.0, "team": "ads"}``.

    Raises:
        UsageError: an item without ``=`` or with an empty name, or one name with two values.
    """
    given = assigned(items, "label", "NAME=VALUE, as in [[label]] beard=1")
    return {name: to_label(value) for name, value in given.items()}


def to_label(text: str) -> Label:
    """A finite number when the text is one (``45%`` and ``0,7`` are, too), else the text; ``yes``/``true`` and
    ``no``/``false`` are 1 and 0."""
    ((text,),) = plain_numbers([[composed(text)]], "")
    word = text.lower()
    if word in ("yes", "true"):
        return 1.0
    if word in ("no", "false"):
        return 0.0
    try:
        number = math.nan if "_" in text else float(text)  # Python's digits may be grouped by it, people's are not
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def read_labels_csv(path: str | Path) -> dict[str, dict[str, Label]]:
    """Labels by identity name. The name stands in the column ``id``, ``name``, ``identity`` or one that is called like
    a file, else in the first; empty cells are unknown and left out, numbers may be written as spreadsheets do.

    Raises:
        BadFile: not readable as CSV, no rows, no labels, a name or a column twice, a row longer than the header,
            per cent beside numbers above one.
    """
    try:
        text = composed(read_text(path))
        first, _, rest = text.partition("\n")
        told = re.fullmatch(r"sep=(.)\s*", first)  # a spreadsheet's own first line
        if told is not None:
            text, first = rest, rest.partition("\n")[0]
        # Spreadsheets of half the world write semicolons, and tabs is what they copy.
        mark = told[1] if told is not None else next((one for one in "\t,;|" if one in first), ",")
        if first.lstrip()[:1] in ("{", "["):
            raise BadFile(path=str(path), reason="JSON, where a CSV is expected", hint=_HEADER)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=mark)
        header = [cell.strip() for cell in next(reader, [])]
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise BadFile(path=str(path), reason=f"not a CSV file: {error}") from None
    if not header or not any(header):
        raise BadFile(path=str(path), reason="no header row", hint=_HEADER)
    if len(header) < 2:
        raise BadFile(path=str(path), reason=f"no column of labels beside {header[0][:60]!r}", hint=_HEADER)
    twice = next((cell for cell in header if cell and header.count(cell) > 1), None)
    if twice is not None:
        raise BadFile(path=str(path), reason=f"two columns are named {twice[:60]!r}")
    value = next((cell for cell in header[1:] if re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?%?", cell)), None)
    if value is not None:
        raise BadFile(path=str(path), reason=f"a column is named {value!r}, as values are", hint=_HEADER)
    where = _naming(header, rows)
    width = range(len(header))
    columns = [[row[i].strip() if i < len(row) and i != where else "" for row in rows] for i in width]
    numbers = plain_numbers(columns, mark)
    for name, cells, plain in zip(header, columns, numbers, strict=True):
        mixed = percent_beside(cells, plain)
        if mixed is not None:
            reason = f"column {name[:60]!r} has {mixed[0]!r} and {mixed[1]!r}: one hundredth of it, or not?"
            raise BadFile(path=str(path), reason=reason, hint="write all of its numbers with a percent sign, or none")
    labels: dict[str, dict[str, Label]] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) > len(header):
            raise BadFile(path=str(path), reason=f"line {number} has {len(row)} cells, the header {len(header)}")
        if where >= len(row) or not row[where].strip():
            raise BadFile(path=str(path), reason=f"line {number} names no identity in column {header[where]!r}")
        name = row[where].strip()
        if name in labels:
            raise BadFile(path=str(path), reason=f"{name[:60]!r} stands twice (second time in line {number})")
        labels[name] = {
            header[i]: to_label(_plain(numbers[i][number - 2]))
            for i, cell in enumerate(row)
            if i != where and cell.strip() and header[i]
        }
    return labels


def _naming(header: list[str], rows: list[list[str]]) -> int:
    """Which column names identities: where ``id`` only counts rows, another that can."""
    called = [cell.casefold() for cell in header]
    found = [called.index(name) for name in _NAME_COLUMNS if name in called] or [0]
    counts = all(len(row) <= found[0] or row[found[0]].strip().isdecimal() for row in rows)
    return found[1] if len(found) > 1 and called[found[0]] == "id" and counts else found[0]


def _plain(cell: str) -> str:
    """A cell's text. An apostrophe keeps spreadsheets from running what it begins with."""
    return cell.removeprefix("'") if cell[:1] == "'" and cell[1:2] in FORMULA else cell


def changed_labels(session: Session, version_id: int, labels: Labels) -> list[str]:
    """The names of these labels that a version has not, or has with another value."""
    return _changed(label_rows(session, version_id), labels) if labels else []


def _changed(have: Mapping[str, LabelRow], labels: Labels) -> list[str]:
    return [n for n, value in labels.items() if (row := have.get(n)) is None or (row.number, row.text) != _cells(value)]


def _cells(value: Label) -> tuple[float | None, str | None]:
    return (float(value), None) if isinstance(value, (int, float)) else (None, str(value))


def set_labels(uow: UnitOfWork, version: Version, labels: Labels) -> list[str]:
    """Give a version these labels, with one event; returns the names of those that were not so already."""
    if not labels:
        return []
    have = label_rows(uow.session, version.id)
    changed = _changed(have, labels)
    for name in changed:
        number, text = _cells(labels[name])
        row = have.get(name)
        if row is None:
            uow.add(LabelRow(version_id=version.id, name=name, number=number, text=text))
        else:
            row.number, row.text = number, text
    if changed:
        uow.event("label.set", {"version": version.id})
    return changed


def match_names(rows: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Which of ``names`` each row means, where that is not ambiguous: row → name."""
    known = list(names)
    ways: list[dict[str, list[str]]] = [{}, {}, {}, {}]
    for name in known:
        last = name.rsplit("/", 1)[-1].casefold()
        for way, key in zip(ways, (name, name.casefold(), last, last), strict=True):
            way.setdefault(key, []).append(name)
    matched: dict[str, str] = {}
    for row in rows:
        stem = composed(row).removesuffix("/")
        for ending in (".safetensors", ".sft", ".pt", ".bin", ".ckpt"):
            stem = stem[: -len(ending)] if stem.lower().endswith(ending) else stem
        last = Path(stem).name
        tries = (row, stem.casefold(), last.casefold(), legal_name(last).casefold())  # as the file got its name
        hits = next((way[key] for way, key in zip(ways, tries, strict=True) if key in way), [])
        if len(hits) == 1:
            matched[row] = hits[0]
    return matched
