"""Rows of the result tables: what was measured, its interval, what it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from w2w_registry.space.intervals import Estimate


@dataclass(frozen=True)
class Row:
    """``target`` None: nothing is asked of it. ``above``: the target is a floor (else a ceiling)."""

    suite: str
    what: str
    estimate: Estimate
    target: float | None = None
    above: bool = True
    note: str = ""

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        return self.estimate.value >= self.target if self.above else self.estimate.value <= self.target

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


def table(rows: Sequence[Row]) -> str:
    """Markdown: one line a row, with the 95% interval."""
    lines = ["| what | figure | 95% interval | n | must be | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        e = row.estimate
        sign = "≥" if row.above else "≤"
        target = "" if row.target is None else f"{sign} {row.target:g}"
        holds = {None: "", True: "yes", False: "**no**"}[row.holds]
        interval = f"{e.low:.3f} – {e.high:.3f}" if e.low != e.high else ""
        what = f"{row.what} ({row.note})" if row.note else row.what
        lines.append(f"| {what} | {e.value:.3f} | {interval} | {e.n} | {target} | {holds} |")
    return "\n".join(lines)


def exact(value: float, n: int) -> Estimate:
    """A figure without an interval."""
    return Estimate(float(value), float(value), float(value), n)
