"""Numbers as SVG path data and ticks, in pixels; templates draw them, the style sheet colours them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 280
LEFT: Final = 52
BOTTOM: Final = 34


@dataclass(frozen=True)
class Line:
    """One curve: its class and path data."""

    kind: str
    path: str


@dataclass(frozen=True)
class Chart:
    """A chart: curves, ticks (position, text) of either axis, and marked positions on x with their texts."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str], ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = BOTTOM


def spectrum(shares: Sequence[float]) -> Chart | None:
    """Explained variance: each component on a logarithmic scale, and the sum of the first so many."""
    if len(shares) < 2:
        return None
    count = len(shares)
    picks = sorted({round(i * (count - 1) / 299) for i in range(300)}) if count > 300 else list(range(count))
    total, sums = 0.0, []
    for share in shares:
        total += share
        sums.append(min(1.0, total))
    logs = [math.log10(max(s, 1e-7)) for s in shares]
    top, low = max(logs), min(logs)

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT) * i / (count - 1)

    each = _path((x(i), _up((logs[i] - low) / max(1e-9, top - low))) for i in picks)
    summed = _path((x(i), _up(sums[i])) for i in picks)
    ticks = tuple((x(i), f"{i + 1:,}") for i in sorted({0, count // 4, count // 2, 3 * count // 4, count - 1}))
    share_ticks = tuple((_up(v), f"{v:.0%}") for v in (0.0, 0.25, 0.5, 0.75, 1.0))
    return Chart((Line("sum", summed), Line("each", each)), ticks, share_ticks)


def false_matches(
    scores: Sequence[float], rates: Sequence[float], threshold: float | None, target: float | None
) -> Chart | None:
    """How many pairs of strangers reach each score, on a logarithmic scale, with the line that was drawn."""
    if len(scores) < 2 or scores[-1] <= scores[0]:
        return None
    low, high = scores[0], scores[-1]
    smallest = min((r for r in rates if r > 0), default=1.0)
    floor = math.floor(math.log10(min(smallest, target or 1.0)))

    def x(score: float) -> float:
        return LEFT + (WIDTH - LEFT) * (score - low) / (high - low)

    def y(rate: float) -> float:
        return _up(1 - math.log10(rate) / floor) if floor else _up(1.0)

    curve = _path((x(s), y(r)) for s, r in zip(scores, rates, strict=True) if r > 0)
    step = _step(high - low)
    first = math.ceil(low / step)
    x_ticks = tuple((x(i * step), f"{i * step:.2g}") for i in range(first, int(high / step) + 1))
    y_ticks = tuple((y(10.0**e), f"1e{e}" if e else "1") for e in range(floor, 1))
    marks = () if threshold is None else ((x(threshold), f"same from {threshold:.3f}"),)
    return Chart((Line("each", curve),), x_ticks, y_ticks, marks)


def det(
    scores: Sequence[float], rates: Sequence[float], misses: Sequence[float] | None, threshold: float | None
) -> Chart | None:
    """Detection error trade-off: false matches on x, misses on y, both on normal-deviate scales (Martin et al. 1997),
    on which two normal distributions give a straight line."""
    if misses is None:
        return None
    points = [(f, m) for f, m in zip(rates, misses, strict=True) if 0 < f < 1 and 0 < m < 1]
    if len(points) < 2:
        return None
    ticks = (0.00001, 0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99)
    low_x, high_x = (_deviate(f([p[0] for p in points])) for f in (min, max))
    low_y, high_y = (_deviate(f([p[1] for p in points])) for f in (min, max))

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT) * (_deviate(rate) - low_x) / max(1e-9, high_x - low_x)

    def y(rate: float) -> float:
        return _up((_deviate(rate) - low_y) / max(1e-9, high_y - low_y))

    curve = _path((x(f), y(m)) for f, m in points)
    x_ticks = tuple((x(v), _share(v)) for v in ticks if low_x <= _deviate(v) <= high_x)
    y_ticks = tuple((y(v), _share(v)) for v in ticks if low_y <= _deviate(v) <= high_y)
    marks: tuple[tuple[float, str], ...] = ()
    if threshold is not None:
        at = [f for s, f in zip(scores, rates, strict=True) if s >= threshold and 0 < f < 1][:1]
        marks = tuple((x(f), "the line") for f in at if low_x <= _deviate(f) <= high_x)
    return Chart((Line("each", curve),), x_ticks, y_ticks, marks)


def _deviate(rate: float) -> float:
    return NormalDist().inv_cdf(rate)


def _share(rate: float) -> str:
    return f"{rate:.0%}" if rate >= 0.01 else f"{100 * rate:.4g}%"


def _up(share: float) -> float:
    return round(8 + (HEIGHT - BOTTOM - 8) * (1 - share), 1)


def _step(span: float) -> float:
    size = 10.0 ** math.floor(math.log10(span / 4))
    return next(size * m for m in (1, 2, 5, 10) if span / (size * m) <= 6)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
