"""The deciders' report: what identities cost and gave, from the log, at the rates of a file."""

from __future__ import annotations

import csv
import io
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog import usage
from w2w_registry.errors import SettingError, StorageError, UsageError
from w2w_registry.records import iso
from w2w_registry.services.consent import gate
from w2w_registry.services.registry import Registry, present
from w2w_registry.services.reports import figures
from w2w_registry.services.reports.figures import NOT_MEASURED, Rates, Timed
from w2w_registry.services.reports.words import LANGUAGES, render


def read_rates(path: Path | None) -> Rates:
    """``[rates]`` of a TOML file; no file, no rates.

    Raises:
        SettingError: not readable, or a rate that is no number.
    """
    if path is None:
        return Rates()
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(setting=str(path), value="", reason=str(error)) from None
    table = data.get("rates", data)
    hour = table.get("hour", {})
    numbers = {k: table.get(k) for k in ("baseline", "setup", "per_month", "storage")}
    if isinstance(hour, (int, float)):
        hour = {"default": hour}
    for key, value in (*hour.items(), *((k, v) for k, v in numbers.items() if v is not None)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise SettingError(setting=f"{path}: {key}", value=value, reason="a rate is a number, zero or more")
    return Rates(str(table.get("currency", "")), {k: float(v) for k, v in hour.items()}, **numbers)


def roi(registry: Registry, rates: Rates) -> dict[str, Any]:
    """Every figure, with the events it comes from; totals are held against the log."""
    with registry.catalog.read() as session:
        at = present(session)
        operations = [Timed(o.kind, o.seconds, o.event) for o in usage.operations(session)]
        counted = usage.events_by_action(session)
        versions = usage.active_versions(session)
        states = Counter(
            state.value
            for state in gate.consent_states(session, versions, at, gate.rules_of(registry, session)).values()
        )
        used, stored = usage.inputs_used(session), usage.files(session)
        releases, expiring = usage.published(session), usage.expiring_within(session, at, 90)
        head = usage.head(session)
        unheard = usage.untold_operations(session)
    rows = figures.costs(operations, rates)
    usable = len(versions)
    unit = figures.unit_cost(rows, usable)
    spread = figures.interval(operations, rates, usable)
    told = {
        "at": iso(at),
        "log": {"events": head[0], "head": head[1]},
        "currency": rates.currency or NOT_MEASURED,
        "decision": {
            "unit_cost": unit,
            "unit_cost_interval": NOT_MEASURED if spread is None else list(spread),
            "payback": figures.payback(unit, rates, spread),
            "stop_rule": _stop_rule(unit, rates),
        },
        "operations": rows,
        "totals": {
            "operations": len(operations),
            "seconds": figures.total(rows, "seconds"),
            "cost": figures.total(rows, "cost"),
            "usable_identities": usable,
        },
        "events": dict(sorted(counted.items())),
        "reuse": figures.reuse(used, usable),
        "storage": _storage(stored, usable, rates),
        "consent": {"states": dict(sorted(states.items())), "expiring_in_90_days": expiring},
        "takedown_exposure": {"published": releases},
        "quality_gates": NOT_MEASURED,
        "energy": NOT_MEASURED,
        "sensitivity": figures.sensitivity(rows, usable),
        "poc": _plan(unit, rates),
    }
    told["reconciliation"] = {
        "events_in_log": head[0],
        "events_counted": sum(counted.values()),
        "difference": head[0] - sum(counted.values()),
        "operations_without_event": unheard,
    }
    return told


def write(registry: Registry, rates: Rates, out: Path, language: str) -> dict[str, Any]:
    """Write the report as ``.html``, or its costs as ``.csv`` in FOCUS columns.

    Raises:
        UsageError: another kind of file or an unknown language. StorageError.
    """
    if out.suffix not in (".html", ".csv"):
        raise UsageError(reason=f"this report is .html or .csv, not {out.suffix or out.name!r}")
    if language not in LANGUAGES:
        raise UsageError(reason=f"no language {language!r}", hint=f"one of: {', '.join(LANGUAGES)}")
    told = roi(registry, rates)
    if out.suffix == ".csv":
        text = focus_csv(told)
    else:
        text = render("roi.html", language, told=told, organisation=registry.settings.organisation)
    try:
        write_atomic(out, text.encode())
    except OSError as error:
        raise StorageError(path=str(out), reason=error.strerror or str(error)) from error
    return told | {"path": str(out)}


def focus_csv(told: Mapping[str, Any]) -> str:
    """A row for each kind of operation, in columns of FOCUS 1.0 (focus.finops.org); what is unknown is left empty."""
    out = io.StringIO()
    columns = ("BilledCost", "BillingCurrency", "ChargeDescription", "ConsumedQuantity", "ConsumedUnit", "ServiceName")
    sheet = csv.writer(out)
    sheet.writerow((*columns, "x_Operations", "x_Events"))
    blank = {NOT_MEASURED: ""}
    for row in told["operations"]:
        hours = "" if isinstance(row["seconds"], str) else row["seconds"] / 3600
        cost = blank.get(row["cost"], row["cost"]) if isinstance(row["cost"], str) else row["cost"]
        currency = "" if told["currency"] == NOT_MEASURED else told["currency"]
        events = " ".join(map(str, row["events"]))
        sheet.writerow((cost, currency, row["kind"], hours, "Hours", "w2w-registry", row["count"], events))
    return out.getvalue()


def _storage(stored: tuple[int, int], usable: int, rates: Rates) -> dict[str, Any]:
    count, size = stored
    month = NOT_MEASURED if rates.storage is None else size / 1e9 * rates.storage
    return {
        "files": count,
        "bytes": size,
        "bytes_per_identity": size / usable if usable else NOT_MEASURED,
        "cost_per_month": month,
    }


def _stop_rule(unit: figures.Figure, rates: Rates) -> str:
    if isinstance(unit, str) or rates.baseline is None:
        return NOT_MEASURED
    return "stop" if unit >= rates.baseline else "go on"


def _plan(unit: figures.Figure, rates: Rates) -> dict[str, Any]:
    return {
        "baseline": NOT_MEASURED if rates.baseline is None else rates.baseline,
        "unit_cost": unit,
        "people_per_arm": figures.sample_size(),
        "kill_unit_cost": NOT_MEASURED if rates.baseline is None else rates.baseline,
    }
