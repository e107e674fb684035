"""The policy is the catalog's: files, folders and clocks elsewhere change nothing, and every try is an event."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.services.audit.test_log import raw
from w2w_registry.catalog.events import events
from w2w_registry.errors import ConsentDenied, SettingError
from w2w_registry.records import digest_of, now
from w2w_registry.services.audit import log
from w2w_registry.services.consent import gate
from w2w_registry.services.identities import manage
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry, init_registry, open_registry, present
from w2w_registry.settings import load_settings

PERMISSIVE = '[policy]\nunknown = ["register", "search", "generate", "export", "publish"]\nlikeness_kinds = []\n'


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    settings = load_settings(tmp_path / "home", actor="curator", env={})
    init_registry(settings)
    with open_registry(load_settings(tmp_path / "home", actor="curator", env={})) as opened:
        yield opened


def told(registry: Registry, action: str) -> list[Any]:
    with registry.catalog.read() as session:
        return list(events(session, action=action))


def test_init_puts_the_written_policy_in_force_and_events_name_it(registry: Registry) -> None:
    shown = policies.show(registry)
    assert shown["rules"]["purpose"] == "research"
    assert not shown["file_differs"]
    with registry.catalog.write("curator") as uow:
        uow.event("something")
    assert [e.policy for e in told(registry, "something")] == [shown["digest"]]
    assert log.verify(registry).ok


def test_a_permissive_file_from_elsewhere_changes_nothing_and_is_an_event(registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "registry.toml").write_text(PERMISSIVE)
    settings = load_settings(other, registry.settings.database_url, actor="mallory", env={})
    for _ in range(3):
        with open_registry(settings) as opened, pytest.raises(ConsentDenied):
            gate.require(opened, "export", subjects=["s1"])
    ignored = told(registry, "policy.ignored")
    assert [(e.actor, e.payload["file"] != e.payload["in_force"]) for e in ignored] == [("mallory", True)] * 3
    refused = told(registry, "consent.refuse")
    assert [(e.actor, e.objects["subject"], e.payload["use"]) for e in refused] == [("mallory", ["s1"], "export")] * 3
    assert {e.payload["ignored"] for e in refused} == {e.payload["file"] for e in ignored}
    gate.ask(registry, "export", subjects=["s1"])
    with pytest.raises(ConsentDenied):
        gate.require(registry, "export", subjects=["s1"])
    assert "ignored" not in told(registry, "consent.refuse")[-1].payload
    assert log.verify(registry).ok


def test_looking_with_another_file_says_so_once_and_deciding_each_time(registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "registry.toml").write_text(PERMISSIVE)
    settings = load_settings(other, registry.settings.database_url, actor="mallory", env={})
    for _ in range(3):
        with open_registry(settings) as opened:
            for _ in range(3):
                policies.show(opened)
                manage.list_identities(opened)
    assert len(told(registry, "policy.ignored")) == 1
    with open_registry(settings) as opened:
        for _ in range(3):
            assert not gate.ask(opened, "export", subjects=["s1"]).allowed
    assert len(told(registry, "policy.ignored")) == 2


def test_only_the_command_changes_it(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    file.write_text('[policy]\npurpose = "art"\n')
    before = policies.show(registry)
    planned = policies.adopt(registry, file, dry_run=True)
    assert planned["changes"]["purpose"] == ["research", "art"]
    assert policies.show(registry) == before
    assert policies.adopt(registry, file)["changed"]
    assert not policies.adopt(registry, file)["changed"]
    shown = policies.show(registry)
    assert shown["rules"] == {"purpose": "art"}
    assert shown["file_differs"]
    assert [row["number"] for row in policies.history(registry)] == [1, 2]
    changed = told(registry, "policy.set")
    # A change is decided under the policy that it ends; the next event is under the new one.
    assert [e.payload["before"] for e in changed] == [None, before["digest"]]
    assert log.verify(registry).ok


def test_until_anything_is_recorded_the_file_beside_the_catalog_counts(registry: Registry) -> None:
    (registry.settings.home / "registry.toml").write_text('[policy]\npurpose = "art"\n')
    settings = load_settings(registry.settings.home, actor="curator", env={})
    with open_registry(settings) as opened:
        assert policies.show(opened)["rules"] == {"purpose": "art"}
        with opened.catalog.write("curator") as uow:
            uow.event("something")
    (registry.settings.home / "registry.toml").write_text(PERMISSIVE)
    with open_registry(load_settings(registry.settings.home, actor="curator", env={})) as opened:
        shown = policies.show(opened)
    assert shown["rules"] == {"purpose": "art"}
    assert shown["file_differs"]
    assert [e.action for e in told(registry, "policy.")] == ["policy.set", "policy.set", "policy.ignored"]


def test_an_unusable_policy_is_refused_whole(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[policy]\nunknown = ["everything"]\n')
    with pytest.raises(SettingError):
        policies.adopt(registry, file)
    with pytest.raises(SettingError):
        policies.adopt(registry, tmp_path / "nowhere.toml")
    assert len(policies.history(registry)) == 1


def test_a_policy_row_that_was_edited_is_found(registry: Registry) -> None:
    with contextmanager(raw)(registry.settings.database_url) as connection:
        connection.exec_driver_sql("UPDATE policy SET rules = '{}'")
    assert [str(f.code) for f in log.verify(registry).findings] == ["row-edited"]


def test_a_refusal_inside_a_write_is_remembered_although_the_write_is_undone(registry: Registry) -> None:
    def work() -> None:
        with registry.catalog.write("curator") as uow:
            uow.event("undone")
            gate.require(registry, "publish", subjects=["s1"], session=uow.session)

    with pytest.raises(ConsentDenied):
        work()
    assert told(registry, "undone") == []
    assert [e.payload["use"] for e in told(registry, "consent.refuse")] == ["publish"]


def test_time_never_runs_back(registry: Registry) -> None:
    with registry.catalog.write("curator") as uow:
        uow.event("first")
    registry.catalog._clock = lambda: datetime(2020, 1, 1, tzinfo=UTC)
    for _ in range(2):
        with registry.catalog.write("mallory") as uow:
            uow.event("later")
    with open_registry(registry.settings) as again:
        again.catalog._clock = registry.catalog._clock
        with suppress(ZeroDivisionError), again.catalog.write("mallory") as uow:
            uow.event("undone", number=1 // 0)
        for _ in range(2):
            with again.catalog.write("mallory") as uow:
                uow.event("later")
    with registry.catalog.read() as session:
        log_ = [(e.action, e.at) for e in events(session)]
    assert [at for _, at in log_] == sorted(at for _, at in log_)
    assert [a for a, _ in log_] == ["policy.set", "first"] + ["clock.back", "later", "later"] * 2
    assert all(e.payload["seconds"] > 86400 * 365 for e in told(registry, "clock.back"))


def test_decisions_are_made_for_the_log_s_time_when_the_clock_is_behind_it(registry: Registry) -> None:
    registry.catalog._clock = lambda: now() + timedelta(days=30)
    with registry.catalog.write("curator") as uow:
        uow.event("a month later")
    with registry.catalog.read() as session:
        assert present(session) > now() + timedelta(days=29)


def test_whom_another_folder_trusts_is_not_trusted(registry: Registry, tmp_path: Path) -> None:
    """[hub] trusted, keys and require_signature are part of the policy: a file elsewhere brings no consent in."""
    (registry.settings.home / "registry.toml").write_text(
        '[policy]\npurpose = "art"\n[hub]\nrequire_signature = true\n'
    )
    policies.adopt(registry)
    assert dict(policies.hub_trust(registry)) == {"require_signature": True}
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "registry.toml").write_text('[hub]\ntrusted = ["mallory"]\n')
    for env in ({"W2W_HOME": str(other)}, {"W2W_HOME": str(other), "W2W_ACTOR": "root"}):
        with open_registry(load_settings(None, registry.settings.database_url, env=env)) as opened:
            assert dict(policies.hub_trust(opened)) == {"require_signature": True}
    tried = [e.payload["file"] for e in told(registry, "policy.ignored")]
    assert digest_of({"hub": {"trusted": ["mallory"]}}) in tried


def test_a_registry_toml_where_the_command_runs_is_not_read(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registry.toml").write_text(PERMISSIVE)
    monkeypatch.chdir(tmp_path)
    with open_registry(load_settings(registry.settings.home, actor="mallory", env={})) as opened:
        with pytest.raises(ConsentDenied):
            gate.require(opened, "export", subjects=["s1"])
        assert policies.show(opened)["rules"]["purpose"] == "research"


def test_no_variable_states_a_policy() -> None:
    """What the environment may say is where things are and who acts; this list is read from the code."""
    package = Path(__file__).parents[3] / "w2w_registry"
    found = {m for p in package.rglob("*.py") for m in re.findall(r'"(W2W_[A-Z_]+)"', p.read_text("utf-8"))}
    assert found == {"W2W_HOME", "W2W_DATABASE_URL", "W2W_ACTOR", "W2W_ARTIFACTS", "W2W_MILVUS_TOKEN"}
