"""The deciders' report: what identities cost and gave, from the log, at the rates of a file."""

from __future__ import annotations

import csv
import difflib
import io
import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog import usage
from w2w_registry.catalog.operations import RESEMBLES, InputKind
from w2w_registry.errors import BadFile, SettingError, UsageError
from w2w_registry.files import read_text
from w2w_registry.records import ConsentState, OperationKind, Result, iso
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.registry import Registry, present
from w2w_registry.services.reports import figures
from w2w_registry.services.reports.figures import NOT_MEASURED, Rates, Timed
from w2w_registry.services.reports.words import LANGUAGES, render

FOCUS = (
    "BilledCost", "BillingCurrency", "ChargeDescription", "ConsumedQuantity", "ConsumedUnit", "ServiceName",
    "BillingAccountId", "BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory", "ChargePeriodStart",
    "ChargePeriodEnd", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "x_Operations", "x_Events",
)  # fmt: skip
"""Columns of FOCUS 1.0 that can be filled, and two of our own."""


USABLE: Final = frozenset({ConsentState.GRANTED, ConsentState.NOT_NEEDED, ConsentState.UNKNOWN})
"""Consent under which an identity that is served counts as usable; what refused, was withdrawn or ran out does not."""
_LIMIT = 1 << 20


def read_rates(path: Path | None) -> Rates:
    """``[rates]`` of a TOML file; no file, no rates.

    Raises:
        BadFile: it cannot be read. SettingError: a rate that is not a number, or one that nothing asks for.
    """
    if path is None:
        return Rates()
    try:
        data = tomllib.loads(read_text(path, limit=_LIMIT))
    except tomllib.TOMLDecodeError as error:
        raise BadFile(path=str(path), reason=f"not TOML: {error}") from None
    table = _table(path, "rates", data.get("rates", data))
    numbers = {k: table.get(k) for k in ("baseline", "setup", "per_month", "storage", "grams_per_kwh")}
    hour, watts = (
        {"default": one} if isinstance(one, (int, float)) else _table(path, name, one)
        for name, one in (("hour", table.get("hour", {})), ("watts", table.get("watts", {})))
    )
    _check_known(path, table, [*numbers, "currency", "hour", "watts"])
    for name, prices_of in (("hour", hour), ("watts", watts)):
        _check_known(path, prices_of, [*map(str, OperationKind), *usage.TIMED.values(), "fit", "default"], f"{name}.")
    given = (*hour.items(), *watts.items(), *((k, v) for k, v in numbers.items() if v is not None))
    for key, value in given:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise SettingError(setting=f"{path}: {key}", value=value, reason="a rate is a number, zero or more")
    prices, powers = ({k: float(v) for k, v in one.items()} for one in (hour, watts))
    return Rates(str(table.get("currency", "")), prices, watts=powers, **numbers)


def _table(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingError(setting=f"{path}: {name}", value=value, reason="expected a table, as in [rates]")
    return value


def _check_known(path: Path, table: Mapping[str, Any], known: Sequence[str], under: str = "") -> None:
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            reason = f"nothing asks for it; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(known)}"
            raise SettingError(setting=f"{path}: {under}{name}", value=table[name], reason=reason)


@dataclass(frozen=True, eq=False)
class Decision(Result):
    """What the figures come to: the cost of one usable identity, whether it is all of it, and what follows."""

    unit_cost: figures.Figure
    complete: bool
    unit_cost_interval: list[float] | str
    payback: figures.Payback
    stop_rule: str


@dataclass(frozen=True, eq=False)
class Totals(Result):
    """Sums over all operations; ``left_out``: what the cost leaves out."""

    operations: int
    seconds: figures.Figure
    cost: figures.Figure
    left_out: list[figures.LeftOut]
    usable_identities: int
    events: list[list[int]]


@dataclass(frozen=True, eq=False)
class Storage(Result):
    """Files in the artifact store."""

    files: int
    bytes: int
    bytes_per_identity: figures.Figure
    cost_per_month: figures.Figure
    events: list[list[int]]


@dataclass(frozen=True, eq=False)
class Reconciliation(Result):
    """The report held against the log."""

    events_in_log: int
    events_counted: int
    difference: int
    operations_without_event: int


@dataclass(frozen=True, eq=False)
class LogHead(Result):
    """The log that was read: how many events, and the last one's hash."""

    events: int
    head: str


@dataclass(frozen=True, eq=False)
class Consented(Result):
    """Versions in service by the state of their consent, and the consents that run out soon."""

    states: dict[str, int]
    events: list[list[int]]
    expiring_in_90_days: int
    expiring_events: list[list[int]]


@dataclass(frozen=True, eq=False)
class Exposure(Result):
    """How many places publish identities: what a takedown of all of them would have to reach."""

    published: int
    events: list[list[int]]


@dataclass(frozen=True, eq=False)
class Gate(Result):
    """How many of what was made ``passed`` a measurement, ``of`` how many."""

    gate: str
    passed: int
    of: int
    events: list[list[int]]


@dataclass(frozen=True, eq=False)
class Design(Result):
    """What the sample is large enough to see: a ``difference`` in acceptance, with this power and level."""

    difference: float = 0.1
    power: float = 0.8
    level: float = 0.05


@dataclass(frozen=True, eq=False)
class Kill(Result):
    """What ends the proof of concept: more than ``limit`` of ``criterion``."""

    criterion: str
    limit: figures.Figure


@dataclass(frozen=True, eq=False)
class Plan(Result):
    """How to find out whether this pays: what is believed, against what, on how many, and when to stop."""

    hypothesis: str
    baseline: figures.Figure
    unit_cost: figures.Figure
    arms: int
    people_per_arm: int
    design: Design
    kill: list[Kill]
    kill_unit_cost: figures.Figure


@dataclass(frozen=True, eq=False)
class Roi(Result):
    """Every figure, with the events it comes from (``events`` of what is not an operation: first and last of each run
    of them); totals are held against the log."""

    at: str
    period: list[str]
    organisation: str
    log: LogHead
    currency: str
    decision: Decision
    operations: list[figures.Cost]
    totals: Totals
    events: dict[str, int]
    reuse: dict[str, figures.Reuse]
    storage: Storage
    consent: Consented
    takedown_exposure: Exposure
    quality_gates: list[Gate] | str
    energy: figures.Energy | str
    sensitivity: list[figures.Bar]
    poc: Plan
    reconciliation: Reconciliation


@dataclass(frozen=True, eq=False)
class RoiWritten(Roi):
    """The report, and where it was written."""

    path: str


def roi(registry: Registry, rates: Rates) -> Roi:
    """The report of what is recorded."""
    with registry.catalog.read() as session:
        at, log = present(session), usage.traces(session)
        operations = [Timed(o.kind, o.seconds, o.event, o.joules) for o in usage.operations(session, log)]
        counted = usage.events_by_action(session)
        versions = usage.active_versions(session)
        states = consent_states(session, versions, at, gate.rules_of(registry, session))
        used, stored = _reuse(session, log, versions), usage.files(session)
        releases, expiring = usage.published(session), usage.expiring_within(session, at, 90)
        head = usage.head(session)
        unheard = usage.untold_operations(session, log)
        gates, period = usage.quality_gates(session, log), usage.period(session)
    rows, missing = figures.costs(operations, rates), figures.left_out(operations, rates)
    usable = len({identity for version, identity in versions.items() if states.get(version) in USABLE})
    unit = figures.unit_cost(rows, usable)
    spread = figures.interval(operations, rates, usable)
    heard = sum(counted.values())
    return Roi(
        at=iso(at),
        period=[iso(moment) for moment in period],
        organisation=registry.settings.organisation.get("name") or "w2w-registry",
        log=LogHead(*head),
        currency=rates.currency or NOT_MEASURED,
        decision=Decision(
            unit_cost=unit,
            complete=not missing,
            unit_cost_interval=NOT_MEASURED if spread is None else list(spread),
            payback=figures.payback(NOT_MEASURED if missing else unit, rates, spread),
            stop_rule=_stop_rule(unit, rates, complete=not missing),
        ),
        operations=rows,
        totals=Totals(
            operations=len(operations),
            seconds=figures.total(rows, "seconds"),
            cost=figures.total(rows, "cost"),
            left_out=missing,
            usable_identities=usable,
            events=figures.ranges(log.of("version", versions)),
        ),
        events=dict(sorted(counted.items())),
        reuse=used,
        storage=_storage(stored, usable, rates, log),
        consent=Consented(
            states=dict(sorted(Counter(state.value for state in states.values()).items())),
            events=figures.ranges(log.rows["consent_record"].values()),
            expiring_in_90_days=len(expiring),
            expiring_events=figures.ranges(log.of("consent_record", expiring)),
        ),
        takedown_exposure=Exposure(len(set(releases.values())), figures.ranges(log.of("release", releases))),
        quality_gates=[Gate(g.gate, g.passed, g.of, figures.ranges(g.events)) for g in gates] or NOT_MEASURED,
        energy=figures.energy(operations, rates),
        sensitivity=figures.sensitivity(rows, usable),
        poc=_plan(unit, rates),
        reconciliation=Reconciliation(head[0], heard, head[0] - heard, unheard),
    )


def _reuse(session: Session, log: usage.Traces, versions: Mapping[int, int]) -> dict[str, figures.Reuse]:
    """How often an identity, a space and a direction was used again."""
    found = usage.uses(session, besides=RESEMBLES)
    spaces, directions = usage.spaces_and_directions(session)
    told: dict[str, figures.Reuse] = {}
    for what, kind, there in (
        ("identities", InputKind.VERSION, len(set(versions.values()))),
        ("spaces", InputKind.SPACE, spaces),
        ("directions", InputKind.DIRECTION, directions),
    ):
        mine = [use for use in found if use.what == kind]
        events = {log.operations[use.operation][0] for use in mine if use.operation in log.operations}
        used = [use.name for use in mine]
        if kind is InputKind.VERSION:
            names = usage.names(session, (version for _, version in log.shown))
            used += [names[version] for _, version in log.shown if version in names]
            events |= {seq for seq, version in log.shown if version in names}
        told[what] = figures.reuse(used, there, events)
    return told


def write(registry: Registry, rates: Rates, out: Path, language: str) -> RoiWritten:
    """Write the report as ``.html``, or its costs as ``.csv`` in FOCUS columns.

    Raises:
        UsageError: another kind of file or an unknown language. StorageError.
    """
    if out.suffix not in (".html", ".csv"):
        raise UsageError(reason=f"this report is .html or .csv, not {out.suffix or out.name!r}")
    if language not in LANGUAGES:
        raise UsageError(reason=f"unknown language {language!r}", hint=f"one of: {', '.join(LANGUAGES)}")
    told = roi(registry, rates)
    if out.suffix == ".csv":
        text = focus_csv(told)
    else:
        text = render("roi.html", language, told=told, organisation=registry.settings.organisation)
    write_atomic(out, text.encode())
    return RoiWritten(**told, path=str(out))


def focus_csv(told: Roi) -> str:
    """A row for each kind of operation, in columns of FOCUS 1.0 (focus.finops.org); what is unknown is left empty, and
    what every row shares (period, currency, who) stands in every row."""
    out = io.StringIO()
    sheet = csv.DictWriter(out, FOCUS)
    sheet.writeheader()
    start, end = told.period or ("", "")
    for row in told.operations:
        cost, hours = _blank(row.cost), "" if isinstance(row.seconds, str) else row.seconds / 3600
        sheet.writerow(
            {
                **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost),
                **dict.fromkeys(("BillingPeriodStart", "ChargePeriodStart"), start),
                **dict.fromkeys(("BillingPeriodEnd", "ChargePeriodEnd"), end),
                **dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), hours),
                **dict.fromkeys(("ConsumedUnit", "PricingUnit"), "Hours"),
                **dict.fromkeys(("ProviderName", "PublisherName", "InvoiceIssuerName"), told.organisation),
                "BillingAccountId": told.organisation,
                "BillingCurrency": _blank(told.currency),
                "ChargeCategory": "Usage",
                "ChargeDescription": row.kind,
                "ListUnitPrice": _blank(row.rate),
                "ServiceCategory": "AI and Machine Learning",
                "ServiceName": "w2w-registry",
                "x_Operations": row.count,
                "x_Events": " ".join(map(str, row.events)),
            }
        )
    return out.getvalue()


def _blank(value: Any) -> Any:
    return "" if value == NOT_MEASURED else value


def _storage(stored: tuple[int, int], usable: int, rates: Rates, log: usage.Traces) -> Storage:
    count, size = stored
    each: figures.Figure = size / usable if usable else NOT_MEASURED
    month: figures.Figure = NOT_MEASURED if rates.storage is None else size / 1e9 * rates.storage
    return Storage(count, size, each, month, figures.ranges(log.rows["source_file"].values()))


def _stop_rule(unit: figures.Figure, rates: Rates, *, complete: bool) -> str:
    """A cost in which something is missing can only be too low: it may say "stop", never "go on"."""
    if isinstance(unit, str) or rates.baseline is None:
        return NOT_MEASURED
    if unit >= rates.baseline:
        return "stop"
    return "go on" if complete else NOT_MEASURED


def _plan(unit: figures.Figure, rates: Rates) -> Plan:
    baseline: figures.Figure = NOT_MEASURED if rates.baseline is None else rates.baseline
    return Plan(
        hypothesis="an identity costs less than the baseline at the same acceptance",
        baseline=baseline,
        unit_cost=unit,
        arms=2,
        people_per_arm=figures.sample_size(),
        design=Design(),
        kill=[
            Kill("unit_cost", baseline),
            Kill("acceptance_below_baseline", 0.1),
            Kill("published_without_consent", 0),
            Kill("hours_to_takedown", 48),
        ],
        kill_unit_cost=baseline,
    )
