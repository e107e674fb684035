"""What a benchmark is: a module of ``benchmarks/cases`` whose ``rows(small)`` measures ours beside a peer in one run.

The module's name is the benchmark's name (``--only NAME``), so there is no list to extend. Both sides of a row run in
the same process, on the same data and the same threads, and only their ratio is meant to be compared across machines.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
Scalar = float | int | str | bool | None


@dataclass(frozen=True)
class Row:
    """One comparison.

    ``ours`` and ``peer`` are what was measured, in the unit that ``size["unit"]`` names (seconds when it is absent);
    ``ratio`` is how many times better ours is, above one for better. A peer of None: nothing to compare with, only a
    figure. ``quality`` is what the speed was bought at (recall, captured variance, wrong answers …), ``size`` what was
    measured (rows, dimensions, threads, spectrum …).
    """

    name: str
    ours: float
    peer: float | None
    peer_name: str
    quality: Mapping[str, Scalar] = field(default_factory=dict)
    size: Mapping[str, Scalar] = field(default_factory=dict)
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        if self.peer is None or not self.ours or not self.peer:
            return None
        return self.ours / self.peer if self.more_is_better else self.peer / self.ours

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ours": self.ours,
            "peer": self.peer,
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "quality": dict(self.quality),
            "size": dict(self.size),
        }


def names() -> list[str]:
    """Every benchmark there is, sorted."""
    return sorted(path.stem for path in CASES.glob("*.py") if not path.stem.startswith("_"))


class FellShort(Exception):
    """A figure below its target, or a file that cannot be judged: said in a line."""


def measure(name: str, *, small: bool) -> Iterable[Row]:
    """The rows of one benchmark, as they are measured. Raises whatever the benchmark raises."""
    rows: Callable[[bool], Iterable[Row]] = importlib.import_module(f"benchmarks.cases.{name}").rows
    return rows(small)


def first_line(name: str) -> str:
    """What a benchmark measures, in its module's first line, read without importing it."""
    import ast

    text = ast.get_docstring(ast.parse((CASES / f"{name}.py").read_text())) or ""
    return text.partition("\n")[0]


def seconds(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Median wall-clock seconds of ``repeats`` calls."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def side_by_side(ours: Callable[[], object], peer: Callable[[], object], *, repeats: int = 5) -> tuple[float, float]:
    """Median seconds of both, called in turn, so that whatever else the machine does falls on both alike."""
    both: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for taken, work in zip(both, (ours, peer), strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return statistics.median(both[0]), statistics.median(both[1])


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | ours | peer | ratio | quality | size |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [line(row) for row in rows]
    return "\n".join(lines)


def line(row: Row) -> str:
    """One row of the table."""
    size = dict(row.size)
    unit = str(size.pop("unit", "s"))
    peer = "–" if row.peer is None else f"{_figure(row.peer, unit)} ({row.peer_name})"
    ratio = "–" if row.ratio is None else f"{row.ratio:.3g}x"
    cells = [row.name, _figure(row.ours, unit), peer, ratio, _pairs(row.quality), _pairs(size)]
    return "| " + " | ".join(cells) + " |"


def _figure(value: float, unit: str) -> str:
    if unit == "s" and 0 < value < 1:
        return f"{1e3 * value:.3g} ms"
    shown = f"{value:.4g}" if not math.isfinite(value) or abs(value) < 1e4 else f"{value:,.0f}"
    return f"{shown} {unit}"


def _pairs(values: Mapping[str, Scalar]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def held(targets: Mapping[str, bool]) -> str:
    """What was asked of a figure and whether it holds, for a row's quality: ``≥ 12x: yes, recall@1 = 1: NO``."""
    return ", ".join(f"{target}: {'yes' if holds else 'NO'}" for target, holds in targets.items())


def missed(row: Row) -> str:
    """The targets a row states and does not meet, as its quality says them; empty when it meets all."""
    told: list[str] = []
    for key, value in row.quality.items():
        if value == "NO":
            told.append(f"{key}: NO")
        elif isinstance(value, str):
            told += [part for part in value.split(", ") if part.endswith(": NO")]
    return ", ".join(told)


def dump(rows: Iterable[Row]) -> str:
    """The rows as the JSON that ``--json`` writes."""
    return json.dumps([row.to_json() for row in rows], indent=1, allow_nan=False) + "\n"
