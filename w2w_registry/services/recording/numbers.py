"""Numbers as spreadsheets write them, made plain: percent signs, thousands separators, decimal commas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

_SPACES = "'\N{RIGHT SINGLE QUOTATION MARK} \N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"
_CELL = re.compile(r"(?P<sign>[+-]?)(?P<body>[^%]*\d)\s?(?P<percent>%?)")
_BODY = {
    decimal: re.compile(
        rf"(?:\d+|[1-9]\d{{0,2}}(?P<mark>[{re.escape(other)}{_SPACES}])\d{{3}}(?:(?P=mark)\d{{3}})*)?"
        rf"(?:{re.escape(decimal)}\d+)?"
    )
    for decimal, other in ((".", ","), (",", "."))
}


def plain_numbers(columns: Sequence[Sequence[str]], between: str) -> list[list[str]]:
    """A table's columns with the numbers among their cells as Python writes them; the others as they are. ``45 %`` is
    0.45.

    A column has one decimal mark, and one that does not tell its own has the table's: ``1.234`` beside ``0,5`` is a
    thousand. Where no cell tells which, a mark by itself is a decimal one; ``1,234`` is a thousand in a file with
    commas ``between`` the cells, as nobody who writes decimal commas has, and is left as it is in one with neither
    commas nor semicolons.
    """
    read = [[_readings(cell) for cell in cells] for cells in columns]
    told = [{mark for one in column for mark in one if len(one) == 1} - {""} for column in read]
    everywhere = set().union(*told)
    return [
        [_chosen(cell, one, own or everywhere, between) for cell, one in zip(cells, column, strict=True)]
        for cells, column, own in zip(columns, read, told, strict=True)
    ]


def percent_beside(cells: Sequence[str], plain: Sequence[str]) -> tuple[str, str] | None:
    """A cell of a column with a percent sign and one without whose number is above one, where it has both: ``50``
    beside ``45%`` may be .5 or fifty. ``plain``: the cells as :func:`plain_numbers` gives them."""
    signed = next((cell for cell in cells if cell.endswith("%") and _CELL.fullmatch(cell)), None)
    bare = (cell for cell, number in zip(cells, plain, strict=True) if _above_one(number) and not cell.endswith("%"))
    other = next(bare, None) if signed is not None else None
    return None if signed is None or other is None else (signed, other)


def _above_one(number: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.?\d+", number) is not None and abs(Decimal(number)) > 1


def _readings(cell: str) -> dict[str, str]:
    """What a cell is by decimal mark; one entry under "" where both say the same."""
    match = _CELL.fullmatch(cell)
    if match is None:
        return {}
    found = {}
    for decimal, body in _BODY.items():
        if body.fullmatch(match["body"]):
            digits = re.sub(rf"[^\d{re.escape(decimal)}]", "", match["body"]).replace(decimal, ".")
            number = match["sign"] + digits
            found[decimal] = f"{Decimal(number) / 100:f}" if match["percent"] else number
    return {"": found["."]} if len(set(found.values())) == 1 and len(found) > 1 else found


def _chosen(cell: str, readings: dict[str, str], told: set[str], between: str) -> str:
    if len(readings) == 1:
        return next(iter(readings.values()))
    if not readings:
        return cell
    if told:
        return readings[min(told)] if len(told) == 1 else cell
    own = "," if "," in cell else "."
    if own == "." or between == ";":
        return readings[own]
    return readings["."] if between == "," else cell
