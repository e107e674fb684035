"""The deciders' report: totals equal the log, and nothing that was not measured becomes a number."""

from __future__ import annotations

import csv
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from tests.services.small import Small
from w2w_registry.catalog.events import events
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadFile, SettingError, UsageError
from w2w_registry.records import now
from w2w_registry.services.audit.phrases import ENGLISH
from w2w_registry.services.consent import withdraw
from w2w_registry.services.recording.versions import Activity, record_operation
from w2w_registry.services.reports import figures, roi
from w2w_registry.services.reports import subject as subject_page
from w2w_registry.services.reports.figures import NOT_MEASURED, Rates, Timed
from w2w_registry.services.reports.words import LANGUAGES, _figure, messages, render


@pytest.fixture
def small(sqlite_catalog: Catalog, tmp_path: Path) -> Small:
    made = Small(sqlite_catalog, tmp_path)
    for subject in ("s1", "s2"):
        made.grant(subject)
    a, b = made.add("a", "s1"), made.add("b", "s2")
    made.derive("m", a, b, how=Use.MIX)
    return made


def test_totals_equal_the_log(small: Small) -> None:
    told = roi.roi(small.registry, Rates())
    events = small.events()
    assert told["reconciliation"]["difference"] == 0
    assert told["reconciliation"]["events_in_log"] == len(events) == sum(told["events"].values())
    assert told["reconciliation"]["operations_without_event"] == 0
    assert sum(row["count"] for row in told["operations"]) == told["totals"]["operations"]
    named = [seq for row in told["operations"] for seq in row["events"]]
    assert len(named) == len(set(named)) or max(named) <= len(events)


def test_what_ran_side_by_side_took_its_time_once(sqlite_catalog: Catalog, tmp_path: Path) -> None:
    small, began = Small(sqlite_catalog, tmp_path), now() - timedelta(seconds=60)
    used = {"joules": 7200.0, "by": ["rapl package-0"]}
    with small.registry.catalog.write("curator") as uow:
        for i in range(4):
            row = record_operation(uow, Activity("train", began, {"place": i}))
            uow.event("version.add", {"operation": row.id}, energy=used)
    told = roi.roi(small.registry, Rates("EUR", {"train": 60.0}))
    (row,) = [one for one in told["operations"] if one["kind"] == "train"]
    assert row["count"] == 4
    assert row["seconds"] == pytest.approx(60, abs=20)
    assert told["energy"]["kwh"] == pytest.approx(4 * 7200 / 3.6e6)


def test_drawing_pictures_has_a_cost_and_every_second_is_an_event_s(small: Small) -> None:
    with small.registry.catalog.write("curator") as uow:
        uow.event("version.generate", {"version": 1}, seconds=1800.0)
        uow.event("preview.draw", {"version": 1}, seconds=900.0)
        old = uow.event("version.generate", {"version": 1})
    told = roi.roi(small.registry, Rates("EUR", {"generate": 4.0}))
    (row,) = [one for one in told["operations"] if one["kind"] == "generate"]
    assert (row["count"], row["timed"], row["seconds"], row["cost"]) == (3, 2, 2700.0, 3.0)
    assert {"kind": "generate", "why": "time", "count": 1} in told["totals"]["left_out"]
    assert row["events"] == [old - 2, old - 1, old]
    uses = told["reuse"]["identities"]  # a preview is the registry's own doing
    assert {one["name"]: one["uses"] for one in uses["most"]}["a"] == 3
    assert [seq for seq in row["events"] if any(first <= seq <= last for first, last in uses["events"])] == [
        old - 2,
        old,
    ]
    with small.registry.catalog.read() as session:
        said = {e.seq: e.payload.get("seconds") for e in events(session)}
    assert sum(said[seq] or 0 for seq in row["events"]) == row["seconds"]
    assert told["reconciliation"]["difference"] == 0


def test_fingerprints_and_exports_have_a_cost_where_their_time_was_recorded(small: Small) -> None:
    version = small.add("c", "s1")
    with small.registry.catalog.write("curator") as uow:
        uow.event("fingerprint.take", {"version": [version]}, base="b", count=1, seconds=90.0)
        uow.event("fingerprint.take", {"version": [version]}, base="b", count=1)  # from before times were recorded
        left = uow.event("version.export", {"version": version}, seconds=0.25)
    told = roi.roi(small.registry, Rates("EUR", {"default": 40.0}))
    rows = {one["kind"]: one for one in told["operations"]}
    assert (rows["fingerprint"]["count"], rows["fingerprint"]["timed"], rows["fingerprint"]["cost"]) == (2, 1, 1.0)
    assert {"kind": "fingerprint", "why": "time", "count": 1} in told["totals"]["left_out"]
    assert (rows["export"]["seconds"], rows["export"]["events"]) == (0.25, [left])
    assert told["totals"]["cost"] == pytest.approx(figures.total(told["operations"], "cost"))


def test_costs_of_a_page_have_one_unit_and_add_up(small: Small) -> None:
    with small.registry.catalog.write("curator") as uow:
        for seconds in (4.1, 0.03, 1.7, 2.2, 0.9):
            uow.event("version.generate", {"version": 1}, seconds=seconds)
        uow.event("fingerprint.take", {"version": [1]}, seconds=3.3)
    told = roi.roi(small.registry, Rates("EUR", {"default": 1.0}))
    page = render("roi.html", "en", told=told, organisation={})
    assert "Cost of 1,000 usable identities" in page
    costs = [float(found) for found in re.findall(r'<td class="n" data-th="Cost">(0\.00\d{3})<td', page)]
    assert sum(costs[:-1]) == pytest.approx(costs[-1], abs=2e-5)


def test_without_rates_nothing_costs_zero(small: Small) -> None:
    told = roi.roi(small.registry, Rates())
    assert told["decision"]["unit_cost"] == NOT_MEASURED
    assert told["decision"]["payback"]["months"] == NOT_MEASURED
    assert told["totals"]["cost"] == NOT_MEASURED
    assert told["energy"] == NOT_MEASURED
    assert all(row["cost"] == NOT_MEASURED for row in told["operations"])
    json.dumps(told.to_json())


def test_rates_times_times() -> None:
    operations = [Timed("train", 3600.0, 1), Timed("train", 1800.0, 2), Timed("edit", None, 3), Timed("mix", 36.0, 4)]
    rates = Rates("EUR", {"train": 2.0}, baseline=5.0, setup=100.0, per_month=10.0)
    rows = {row["kind"]: row for row in figures.costs(operations, rates)}
    assert rows["train"]["cost"] == pytest.approx(3.0)
    assert rows["edit"]["seconds"] == NOT_MEASURED
    assert rows["mix"]["cost"] == NOT_MEASURED
    unit = figures.unit_cost(list(rows.values()), 2)
    assert unit == pytest.approx(1.5)
    assert figures.payback(unit, rates, None)["months"] == pytest.approx(100 / 35)
    bars = figures.sensitivity(list(rows.values()), 2)
    assert all(bar["low"] < 1.5 < bar["high"] for bar in bars)
    assert figures.sample_size() == 393


@pytest.mark.parametrize(
    "text",
    [
        "not toml [",
        "[rates]\nbaseline = -1\n",
        '[rates]\nhour = {train = "much"}\n',
        "[rates]\nbase_line = 1\n",
        "[rates]\nhour = {trian = 1}\n",
        "[rates]\nhour = {train = nan}\n",
        "[rates]\nwatts = ''\n",
        "rates = 5\n",
    ],
)
def test_unusable_rates_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rates.toml").write_text(text)
    with pytest.raises((BadFile, SettingError)):
        roi.read_rates(tmp_path / "rates.toml")
    with pytest.raises(BadFile):
        roi.read_rates(tmp_path / "none.toml")


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_in_every_language(small: Small, tmp_path: Path, language: str) -> None:
    roi.write(small.registry, Rates(), tmp_path / "roi.html", language)
    page = (tmp_path / "roi.html").read_text("utf-8")
    assert messages(language)["not_measured"] in page
    assert f'<html lang="{language}">' in page
    subject_page.write(small.registry, "s1", tmp_path / "you.html", language)
    page = (tmp_path / "you.html").read_text("utf-8")
    assert messages(language)["part_operation"] in page
    assert "s2" not in page
    assert "b@1" not in page


def test_every_language_says_everything_and_nothing_else() -> None:
    english = messages("en")
    for language in LANGUAGES:
        texts = json.loads((Path(roi.__file__).parent / "messages" / f"{language}.json").read_text("utf-8"))
        sentences = {key for key, text in english.items() if "_" in key or "{" in text}
        assert sentences <= set(texts), language
        for key in set(texts) & set(english):
            assert set(_fields(texts[key])) == set(_fields(english[key])), (language, key)


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_what_a_subject_is_told_is_said_in_their_language(small: Small, tmp_path: Path, language: str) -> None:
    texts = messages(language)
    said = {key.removeprefix("said_"): text for key, text in texts.items() if key.startswith("said_")}
    assert set(said) == set(ENGLISH)
    assert all(set(_fields(said[key])) == set(_fields(text)) for key, text in ENGLISH.items())
    subject_page.write(small.registry, "s1", tmp_path / "you.html", language)
    page = (tmp_path / "you.html").read_text("utf-8")
    assert said["depicts"] in page
    assert ENGLISH["depicts"] not in page


def _fields(text: str) -> list[str]:
    import string

    return [name for _, name, _, _ in string.Formatter().parse(text) if name]


def test_other_files_and_languages_are_refused(small: Small, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        roi.write(small.registry, Rates(), tmp_path / "roi.pdf", "en")
    with pytest.raises(UsageError):
        roi.write(small.registry, Rates(), tmp_path / "roi.html", "xx")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.54e-05, "0.000015"), (0.0, "0.00"), (0.01, "0.01"), (-0.0049, "-0.0049"), (1234.5, "1,234.50")],
)
def test_figures_are_written_out(value: float, shown: str) -> None:
    assert _figure(value, messages("en")) == shown


def test_costs_as_focus_columns(small: Small, tmp_path: Path) -> None:
    roi.write(small.registry, Rates("EUR", {"default": 2.0}), tmp_path / "roi.csv", "en")
    with open(tmp_path / "roi.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    told = roi.roi(small.registry, Rates("EUR", {"default": 2.0}))
    assert sum(float(row["BilledCost"] or 0) for row in rows) == pytest.approx(told["totals"]["cost"])
    assert {row["BillingCurrency"] for row in rows} == {"EUR"}
    assert [row["ChargeDescription"] for row in rows] == [row["kind"] for row in told["operations"]]
    assert all(row["ChargePeriodStart"] < row["ChargePeriodEnd"] for row in rows)


def test_energy_is_time_by_power_and_says_what_is_left_out() -> None:
    operations = [Timed("train", 3600.0, 1), Timed("edit", 7200.0, 2), Timed("mix", None, 3)]
    told = figures.energy(operations, Rates(watts={"train": 300.0}, grams_per_kwh=400.0))
    assert told == {
        "kwh": pytest.approx(0.3), "co2_kg": pytest.approx(0.12), "operations": 1, "left_out": 2, "metered": 0,
        "metered_kwh": NOT_MEASURED,
    }  # fmt: skip
    counted = figures.energy([*operations, Timed("invert", 9.0, 4, 7.2e6)], Rates(watts={"train": 300.0}))
    assert (counted["kwh"], counted["metered"], counted["left_out"]) == (pytest.approx(2.3), 1, 2)
    assert figures.energy([Timed("edit", 1.0, 1, 3.6e6)], Rates())["metered_kwh"] == 1.0
    assert figures.energy(operations, Rates()) == NOT_MEASURED
    assert figures.energy(operations, Rates(watts={"default": 1.0}))["co2_kg"] == NOT_MEASURED


def test_the_plan_says_when_to_stop_and_the_gates_what_was_measured(small: Small) -> None:
    told = roi.roi(small.registry, Rates("EUR", {"default": 2.0}, baseline=50.0))
    assert [one["criterion"] for one in told["poc"]["kill"]] == [
        "unit_cost", "acceptance_below_baseline", "published_without_consent", "hours_to_takedown",
    ]  # fmt: skip
    assert told["poc"]["kill"][0]["limit"] == 50.0
    gates = {one["gate"]: (one["passed"], one["of"]) for one in told["quality_gates"]}
    assert gates["identity_fingerprinted"] == (0, 3)


def test_a_limit_that_nobody_measured_is_no_number_in_a_sentence(small: Small, tmp_path: Path) -> None:
    for language, wrong in (("en", "at least not measured"), ("ja", "未測定 以上")):
        roi.write(small.registry, Rates(), tmp_path / "roi.html", language)
        page = (tmp_path / "roi.html").read_text("utf-8")
        assert wrong not in page
        assert messages(language)["kill_unit_cost_unset"] in page


def test_a_cost_that_leaves_something_out_never_says_go_on(small: Small) -> None:
    told = roi.roi(small.registry, Rates("EUR", {"mix": 1.0}, baseline=1e6, setup=1.0, per_month=1.0))
    assert told["totals"]["left_out"] == [
        {"kind": kind, "why": "rate", "count": n} for kind, n in (("fit", 1), ("import", 2))
    ]
    assert (told["decision"]["complete"], told["decision"]["stop_rule"]) == (False, NOT_MEASURED)
    assert told["decision"]["payback"]["months"] == NOT_MEASURED
    assert roi.roi(small.registry, Rates("EUR", {"mix": 1.0}, baseline=0.0))["decision"]["stop_rule"] == "stop"
    whole = roi.roi(small.registry, Rates("EUR", {"default": 1.0}, baseline=1e6))
    assert (whole["decision"]["complete"], whole["decision"]["stop_rule"]) == (True, "go on")


def test_reuse_and_evidence_come_from_the_log(small: Small) -> None:
    told = roi.roi(small.registry, Rates())
    used = told["reuse"]["identities"]
    assert (used["there"], used["used_again"], used["uses"]) == (3, 2, 2)
    assert {one["name"] for one in used["most"]} == {"a", "b"}
    (made,) = [row["events"] for row in told["operations"] if row["kind"] == "mix"]
    assert used["events"] == figures.ranges(made)
    assert figures.ranges([7, 3, 1, 2, 3]) == [[1, 3], [7, 7]]
    assert told["totals"]["events"]
    assert told["consent"]["events"]


def test_who_withdrew_is_not_usable(small: Small) -> None:
    before = roi.roi(small.registry, Rates())["totals"]["usable_identities"]
    withdraw.withdraw(small.registry, "s1")
    assert (before, roi.roi(small.registry, Rates())["totals"]["usable_identities"]) == (3, 1)
