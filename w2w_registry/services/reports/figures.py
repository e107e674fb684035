"""What making identities cost and gave: pure arithmetic over operations and events, with nothing guessed.

A figure that nobody measured is ``NOT_MEASURED``, never zero: without rates there are no costs, without recorded ends
there are no times.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from w2w_registry.records import Result

NOT_MEASURED: Final = "not measured"
Figure = float | str
RESAMPLES: Final = 2000
SWING: Final = 0.25
"""By how much of itself each factor is moved in ``sensitivity``."""


@dataclass(frozen=True)
class Timed:
    """One recorded operation: what it was, how long it took (None: no end was recorded), the event that tells, and the
    joules that a meter counted (None: there was none)."""

    kind: str
    seconds: float | None
    event: int | None
    joules: float | None = None


@dataclass(frozen=True)
class Rates:
    """``[rates]`` of rates.toml. ``hour``: price of an hour by kind of operation, ``default`` for the others;
    ``baseline``: what an identity costs without this; ``setup``: paid once; ``per_month``: identities needed a month;
    ``storage``: price of a GB a month; ``watts``: power drawn by kind of operation, ``default`` for the others;
    ``grams_per_kwh``: CO₂ of the electricity."""

    currency: str = ""
    hour: Mapping[str, float] | None = None
    baseline: float | None = None
    setup: float | None = None
    per_month: float | None = None
    storage: float | None = None
    watts: Mapping[str, float] | None = None
    grams_per_kwh: float | None = None

    def of(self, kind: str) -> float | None:
        """Price of an hour of this kind; None when no rate is given for it."""
        table = self.hour or {}
        return table.get(kind, table.get("default"))


@dataclass(frozen=True, eq=False)
class Cost(Result):
    """What operations of one kind took and cost; ``timed`` of them had an end, ``events`` are theirs in the log."""

    kind: str
    count: int
    timed: int
    seconds: Figure
    rate: Figure
    cost: Figure
    events: list[int]


@dataclass(frozen=True, eq=False)
class Energy(Result):
    """Electricity of ``operations``; ``metered`` of them with a meter, ``left_out`` neither metered nor reckoned."""

    kwh: float
    co2_kg: Figure
    operations: int
    left_out: int
    metered: int
    metered_kwh: Figure


@dataclass(frozen=True, eq=False)
class Payback(Result):
    """Months until the set-up is earned back, and their interval."""

    months: Figure
    interval: list[Figure] | str


@dataclass(frozen=True, eq=False)
class Bar(Result):
    """Unit cost when one factor is lower or higher."""

    factor: str
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class LeftOut(Result):
    """Operations of a kind that no cost could be put on, and why."""

    kind: str
    why: str
    count: int


@dataclass(frozen=True, eq=False)
class Used(Result):
    """What went into something else, and how often."""

    name: str
    uses: int


@dataclass(frozen=True, eq=False)
class Reuse(Result):
    """How often what is there went into something else; ``events`` as ``ranges`` gives them."""

    there: int
    used_again: int
    uses: int
    median_uses: Figure
    most: list[Used]
    events: list[list[int]]


def costs(operations: Sequence[Timed], rates: Rates) -> list[Cost]:
    """One row for each kind: how often, how long, what it cost, and by which events that can be checked."""
    rows = []
    for kind in sorted({o.kind for o in operations}):
        mine = [o for o in operations if o.kind == kind]
        timed = [o.seconds for o in mine if o.seconds is not None]
        rate = rates.of(kind)
        seconds: Figure = sum(timed) if timed else NOT_MEASURED
        rows.append(
            Cost(
                kind=kind,
                count=len(mine),
                timed=len(timed),
                seconds=seconds,
                rate=NOT_MEASURED if rate is None else rate,
                cost=NOT_MEASURED if rate is None or not timed else sum(timed) / 3600 * rate,
                events=sorted(o.event for o in mine if o.event is not None),
            )
        )
    return rows


def energy(operations: Sequence[Timed], rates: Rates) -> Energy | str:
    """Electricity, by codecarbon's method: what a meter counted; where none could be read, recorded time × power given.
    What has neither is not in it, and how much that is, is said."""
    table = rates.watts or {}
    metered = [o.joules / 3.6e6 for o in operations if o.joules is not None]
    reckoned = [
        o.seconds / 3600 * watts / 1000
        for o in operations
        if o.joules is None and o.seconds is not None and (watts := table.get(o.kind, table.get("default"))) is not None
    ]
    counted = len(metered) + len(reckoned)
    if not counted:
        return NOT_MEASURED
    kwh = sum(metered) + sum(reckoned)
    carbon: Figure = NOT_MEASURED if rates.grams_per_kwh is None else kwh * rates.grams_per_kwh / 1000
    by_meter: Figure = sum(metered) if metered else NOT_MEASURED
    return Energy(kwh, carbon, counted, len(operations) - counted, len(metered), by_meter)


def total(rows: Sequence[Cost], key: str) -> Figure:
    """The sum of what was measured; ``NOT_MEASURED`` when nothing was."""
    found = [row[key] for row in rows if not isinstance(row[key], str)]
    return sum(found) if found else NOT_MEASURED


def unit_cost(rows: Sequence[Cost], usable: int) -> Figure:
    """Cost of one usable identity."""
    cost = total(rows, "cost")
    return NOT_MEASURED if isinstance(cost, str) or not usable else cost / usable


def interval(operations: Sequence[Timed], rates: Rates, usable: int) -> tuple[float, float] | None:
    """95% bootstrap interval of the unit cost over the recorded operations; None when too little was measured."""
    priced = [
        o.seconds / 3600 * rate for o in operations if o.seconds is not None and (rate := rates.of(o.kind)) is not None
    ]
    if len(priced) < 5 or not usable:
        return None
    draw = random.Random(1)
    sums = sorted(sum(draw.choices(priced, k=len(priced))) / usable for _ in range(RESAMPLES))
    return sums[int(0.025 * RESAMPLES)], sums[int(0.975 * RESAMPLES)]


def payback(unit: Figure, rates: Rates, spread: tuple[float, float] | None) -> Payback:
    """Months until the set-up is earned back, with the interval that the unit cost's brings."""

    def months(cost: float) -> Figure:
        if rates.baseline is None or rates.setup is None or not rates.per_month:
            return NOT_MEASURED
        saved = (rates.baseline - cost) * rates.per_month
        return rates.setup / saved if saved > 0 else "never"

    if isinstance(unit, str):
        return Payback(NOT_MEASURED, NOT_MEASURED)
    return Payback(months(unit), NOT_MEASURED if spread is None else [months(spread[0]), months(spread[1])])


def sensitivity(rows: Sequence[Cost], usable: int) -> list[Bar]:
    """Unit cost when one kind's cost is a quarter lower or higher, widest first: the bars of a tornado chart."""
    cost = total(rows, "cost")
    if isinstance(cost, str) or not usable:
        return []
    bars = [
        Bar(row.kind, (cost - SWING * row.cost) / usable, (cost + SWING * row.cost) / usable)
        for row in rows
        if not isinstance(row.cost, str)
    ]
    bars.append(Bar("usable identities", cost / (usable * (1 + SWING)), cost / (usable * (1 - SWING))))
    return sorted(bars, key=lambda bar: bar.low - bar.high)


def left_out(operations: Sequence[Timed], rates: Rates) -> list[LeftOut]:
    """What no cost could be put on, by kind: how often no price was given (``rate``) or no end recorded (``time``)."""
    found = Counter(
        (o.kind, "rate" if rates.of(o.kind) is None else "time")
        for o in operations
        if o.seconds is None or rates.of(o.kind) is None
    )
    return [LeftOut(kind, why, count) for (kind, why), count in sorted(found.items())]


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """``[3, 1, 2, 7]`` → ``[[1, 3], [7, 7]]``: many events in few words."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def reuse(names: Sequence[str], there: int, events: Iterable[int]) -> Reuse:
    """How often what there is went into something else: of ``there`` things, the name of one for each use, recorded by
    these ``events``."""
    used = Counter(names)
    return Reuse(
        there=there,
        used_again=len(used),
        uses=sum(used.values()),
        median_uses=statistics.median(used.values()) if used else NOT_MEASURED,
        most=[Used(name, uses) for name, uses in used.most_common(5)],
        events=ranges(events),
    )


def sample_size(difference: float = 0.1, power: float = 0.8, level: float = 0.05) -> int:
    """People in each arm that show a difference in a share of one half (normal approximation, two-sided)."""
    normal = statistics.NormalDist()
    z = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    return int(-(-2 * 0.25 * z**2 // difference**2))
