"""The regulator's report: who is responsible, what was decided under which policy, and whether the log holds."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.services.audit.test_log import busy, raw
from tests.services.small import Small
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import ConsentDenied, StorageError, UsageError
from w2w_registry.records import now
from w2w_registry.services.audit import log
from w2w_registry.services.consent import gate, withdraw
from w2w_registry.services.reports import regulator
from w2w_registry.services.reports.regulator import Period
from w2w_registry.services.reports.words import LANGUAGES, messages, render


@pytest.fixture
def small(sqlite_catalog: Catalog, tmp_path: Path) -> Small:
    made = Small(sqlite_catalog, tmp_path)
    busy(made)
    settings = replace(
        made.registry.settings,
        organisation={"name": "A <studio>", "controller": "A studio, Berlin", "contact": "privacy@example.org"},
    )
    made.registry = replace(made.registry, settings=settings)
    return made


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_the_cover_says_who_when_and_by_what(small: Small, tmp_path: Path, suffix: str, language: str) -> None:
    out = tmp_path / "deep" / f"report{suffix}"
    since, until = now() - timedelta(days=1), now() + timedelta(days=1)
    value = regulator.write(small.registry, out, Period(since, until), language=language)
    text = out.read_text("utf-8")
    assert value["ok"]
    checkpoint = log.checkpoint(small.registry)
    for said in ("A studio, Berlin", "privacy@example.org", "curator", "UTC", value["cover"]["log"]["head"]):
        assert said in text
    assert checkpoint["public_key"] in text
    assert value["cover"]["checkpoint"]["note"].split("\n")[2] in text
    assert messages(language)["verdict_ok"] in text
    assert f"{since:%Y-%m-%d}" in text
    assert ("A &lt;studio&gt;" if suffix == ".html" else "A <studio>") in text
    for table in regulator.tables(value):
        assert messages(language)[f"reg_{table['key']}"] in text


def test_every_decision_names_the_policy_it_was_made_under(small: Small) -> None:
    for _ in range(2):
        with pytest.raises(ConsentDenied):
            gate.require(small.registry, "export", versions=[1], subjects=["nobody"])
    told = regulator.report(small.registry, Period())
    assert {"use": "export", "decision": "refused", "policy": None, "count": 2} in told["decisions"]
    assert told["refusals"][0]["about"].startswith("a@1, ")
    assert sum(row["count"] for row in told["consents"]) == sum(
        count
        for action, count in told["events"].items()
        if action.startswith("consent.") and action != "consent.refuse"
    )
    assert sum(told["events"].values()) == told["cover"]["log"]["events"]


def test_withdrawals_say_how_long_each_step_took(small: Small) -> None:
    withdraw.withdraw(small.registry, "s2", erase=True)
    told = regulator.report(small.registry, Period())
    steps = [row["step"] for row in told["withdrawals_done"] if row["subject"] == "s2"]
    assert steps == ["block", "erase", "purge", "receipt"]
    assert all(row["seconds"] >= 0 for row in told["withdrawals_done"])
    assert {row["release"].partition(" ")[0] for row in told["takedowns"]} == {"acme/b", "acme/b2", "acme/e"}
    assert told["subjects"] == {"erased": 1, "withdrawn": 1}


def test_the_period_bounds_what_happened_and_not_what_there_is(small: Small) -> None:
    told = regulator.report(small.registry, Period(until=now() - timedelta(days=1)))
    assert (told["events"], told["withdrawals_done"], told["takedowns"]) == ({}, [], [])
    assert told["counts"]
    assert regulator.report(small.registry, Period(since=now() - timedelta(days=1)))["events"]


def test_a_log_that_does_not_verify_is_said_first(small: Small, tmp_path: Path) -> None:
    with contextmanager(raw)(small.url) as connection:
        connection.exec_driver_sql("UPDATE event SET actor = 'somebody' WHERE seq = 3")
    value = regulator.write(small.registry, tmp_path / "r.html", Period())
    assert not value["ok"]
    assert "THE LOG DOES NOT VERIFY" in (tmp_path / "r.html").read_text("utf-8")


def test_long_lists_are_folded_with_their_counts(small: Small, tmp_path: Path) -> None:
    for i in range(regulator.FOLD + 1):
        with pytest.raises(ConsentDenied):
            gate.require(small.registry, "export", subjects=[f"x{i}"])
    regulator.write(small.registry, tmp_path / "r.html", Period())
    page = (tmp_path / "r.html").read_text("utf-8")
    assert f"<details><summary>Show all {regulator.FOLD + 1}</summary>" in page
    assert page.count("<details>") == 1


def test_what_is_shown_is_escaped() -> None:
    cover = {"organisation": "<i>", "controller": None, "contact": None, "from": None, "to": None, "author": "a"}
    cover |= {"made": now(), "versions": {}, "log": {"events": 0, "head": ""}, "checkpoint": None, "policy": None}
    verdict = {"ok": True, "findings": [], "first_bad": None, "events": 0, "checkpoints": 0, "rows": 0}
    rows = [{"version": "<b>a|b</b>", "problems": ["x & y"]}]
    tables = [{"key": "mismatched", "columns": ("version", "problems"), "rows": rows}]
    told = {"cover": cover, "verdict": verdict}
    page = render("regulator.html", "en", told=told, tables=tables, fold=20, on_paper=50)
    assert "<b>a" not in page
    assert "&lt;b&gt;a|b&lt;/b&gt;" in page
    assert "a\\|b" in render("regulator.md", "en", told=told, tables=tables, fold=20, on_paper=50)


def test_other_files_periods_and_places_are_refused(small: Small, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        regulator.write(small.registry, tmp_path / "report.pdf", Period())
    with pytest.raises(UsageError):
        regulator.write(small.registry, tmp_path / "r.html", Period(), language="xx")
    with pytest.raises(UsageError):
        regulator.write(small.registry, tmp_path / "r.html", Period(now(), now() - timedelta(days=1)))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        regulator.write(small.registry, tmp_path / "file" / "r.html", Period())
