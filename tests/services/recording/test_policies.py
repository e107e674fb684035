"""The policy is the catalog's: files, folders and clocks elsewhere change nothing, and every try is an event."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.services.audit.test_log import raw
from w2w_registry import services
from w2w_registry.catalog import schema
from w2w_registry.catalog.events import events
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Scope
from w2w_registry.errors import Busy, ConsentDenied, SecondPersonNeeded, SettingError, UsageError
from w2w_registry.messages import message
from w2w_registry.records import digest_of, iso, now
from w2w_registry.services.audit import log
from w2w_registry.services.consent import gate, grants
from w2w_registry.services.consent.door_key import key_path
from w2w_registry.services.identities import browsing
from w2w_registry.services.recording import backups, policies
from w2w_registry.services.registry import Registry, init_registry, open_registry, present, upgrade_schema
from w2w_registry.settings import TABLES, load_settings

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
                browsing.browse(opened)
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


@pytest.mark.parametrize(
    "item",
    ["marking=off", "marking=0", "space_people=x", "space_people=-3", "space_people=1.5", "space_people=true",
     "territory=Atlantis", "purpose=", "purpose=reserch", "purpose=[]", "purposes=art",
     'purposes=[""]', "unknown=publish",
     'unknown=["fly"]', 'likeness_kinds=["persn"]', "door_key=5", "second_person=no", "signed_consents=maybe", "foo=1",
     "marking"],
)  # fmt: skip
def test_a_value_that_nothing_can_go_by_is_never_put_in_force(registry: Registry, item: str) -> None:
    before = policies.show(registry)
    for dry_run in (True, False):
        with pytest.raises((SettingError, UsageError)) as caught:
            policies.adopt(registry, items=[item], dry_run=dry_run)
        if "=" in item and item != "foo=1":
            assert item.partition("=")[0].rstrip("s") in message(caught.value)
    assert policies.show(registry) == before
    assert "{'" not in message(caught.value)


def test_a_purpose_of_one_s_own_is_declared(registry: Registry) -> None:
    assert policies.adopt(registry, items=["purpose=reserch", 'purposes=["reserch"]'])["changed"]
    assert policies.adopt(registry, items=["purpose=house-style", "territory=eu"])["changed"]
    with pytest.raises(UsageError, match="two values"):
        policies.adopt(registry, items=["marking=true", "marking=false"])


LOOSER = {
    'unknown=["publish"]': "unknown",
    "likeness_kinds=[]": "likeness_kinds",
    "territory=DE": "territory",
    "signed_consents=false": "signed_consents",
    "second_person=false": "second_person",
    "marking=false": "marking",
    "space_people=2": "space_people",
}


def test_every_key_says_whether_more_is_allowed_than_before() -> None:
    """The keys that a policy has, from the code; those not in LOOSER allow nothing by themselves."""
    assert {"purpose", "purposes", "door_key"} == set(TABLES["policy"] or ()) - set(LOOSER.values())


@pytest.mark.parametrize(("item", "key"), LOOSER.items())
def test_what_allows_more_takes_another_person_and_the_command_she_is_told_does_it(
    registry: Registry, item: str, key: str
) -> None:
    policies.adopt(registry, items=["signed_consents=true"])
    second = replace(registry, settings=replace(registry.settings, actor="auditor"))
    with second.catalog.write("auditor") as uow:
        uow.event("something")
    with pytest.raises(SecondPersonNeeded) as caught:
        policies.adopt(registry, items=[item])
    said = message(caught.value)
    assert f"({key})" in said
    assert "one person runs" not in said  # it would be its own cure
    assert policies.adopt(second, items=shlex.split(said.split("`")[1])[3:])["changed"]


def test_unsigned_releases_and_a_file_take_another_person_too(registry: Registry, tmp_path: Path) -> None:
    first, after = tmp_path / "first.toml", tmp_path / "a policy.toml"
    first.write_text("[policy]\n[hub]\nrequire_signature = true\n")
    after.write_text("[policy]\n")
    policies.adopt(registry, first)
    second = replace(registry, settings=replace(registry.settings, actor="auditor"))
    with second.catalog.write("auditor") as uow:
        uow.event("something")
    with pytest.raises(SecondPersonNeeded, match="hub") as caught:
        policies.adopt(registry, after)
    words = shlex.split(message(caught.value).split("`")[1])
    assert words[3:] == ["--file", str(after)]
    assert policies.adopt(second, Path(words[-1]))["changed"]
    assert dict(policies.hub_trust(registry)) == {}


def test_where_the_door_s_key_is_no_other_file_says(registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "registry.toml").write_text(f'[policy]\ndoor_key = "{tmp_path}/mine.key"\n')
    with open_registry(load_settings(other, registry.settings.database_url, actor="mallory", env={})) as opened:
        assert key_path(opened) == other / "keys/door.key"
    policies.adopt(registry, items=[f"door_key={tmp_path}/team.key"])
    assert key_path(registry) == tmp_path / "team.key"


# -- a clock set back ---------------------------------------------------------------------------------
class Clock:
    """A machine: what its clock says, and how long it has been running (``boot`` names its start)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.boot, self.running = now() + timedelta(minutes=1), "first", 1000.0
        monkeypatch.setattr("w2w_registry.services.registry.now", lambda: self.at)
        monkeypatch.setattr("w2w_registry.services.registry.Catalog", partial(Catalog, clock=lambda: self.at))
        monkeypatch.setattr("w2w_registry.catalog.clock._running", lambda: (self.boot, self.running))

    def pass_(self, **span: float) -> None:
        self.at += timedelta(**span)
        self.running += timedelta(**span).total_seconds()

    @contextmanager
    def open(self, home: Path) -> Iterator[Registry]:
        with open_registry(load_settings(home, actor="curator", env={})) as opened:
            yield opened


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A registry at ``tmp_path / "home"`` that holds a consent of ten days, one day old."""
    clock = Clock(monkeypatch)
    init_registry(load_settings(tmp_path / "home", actor="curator", env={}))
    with clock.open(tmp_path / "home") as opened:
        scope = Scope(purposes=("any",), expires_at=clock.at + timedelta(days=10))
        grants.grant(opened, "s1", scope)
        assert gate.ask(opened, "export", subjects=["s1"]).allowed
    clock.pass_(days=1)
    return clock


def _refused(clock: Clock, home: Path) -> list[str]:
    """The events that opening the registry and a try to export leave, which must be refused."""
    with sqlite3.connect(home / "catalog.db") as connection:
        (before,) = connection.execute("SELECT max(seq) FROM event").fetchone()
    with clock.open(home) as opened:
        with pytest.raises(ConsentDenied, match="expired"):
            gate.require(opened, "export", subjects=["s1"])
        with opened.catalog.read() as session:
            return [e.action for e in events(session) if e.seq > before]


def test_a_consent_that_a_decision_found_expired_is_an_event_and_stays_expired(machine: Clock, tmp_path: Path) -> None:
    machine.pass_(days=30)
    for _ in range(2):
        with machine.open(tmp_path / "home") as opened:
            assert gate.ask(opened, "search", subjects=["s1"]).allowed  # of somebody unknown as well
            assert [e.objects["subject"] for e in told(opened, "consent.expire")] == ["s1"]
    (tmp_path / "home/catalog.db-seen").unlink()
    machine.at -= timedelta(days=30)
    machine.boot = "second"
    assert _refused(machine, tmp_path / "home") == ["clock.back", "clock.lost", "consent.refuse"]


def test_a_consent_stays_expired_when_the_registry_was_only_looked_at_since(machine: Clock, tmp_path: Path) -> None:
    machine.pass_(days=30)
    with machine.open(tmp_path / "home") as opened, opened.catalog.read():
        pass
    machine.at -= timedelta(days=30)
    machine.boot = "second"
    assert _refused(machine, tmp_path / "home") == ["clock.back", "consent.refuse"]
    assert _refused(machine, tmp_path / "home") == ["clock.back", "consent.refuse"]


def test_a_consent_stays_expired_when_nobody_looked_and_the_machine_ran_on(machine: Clock, tmp_path: Path) -> None:
    machine.running += timedelta(days=30).total_seconds()  # the clock stands where it was
    assert _refused(machine, tmp_path / "home") == ["clock.back", "consent.refuse"]
    machine.boot, machine.running = "second", 60.0
    assert _refused(machine, tmp_path / "home") == ["clock.back", "consent.refuse"]


@pytest.mark.parametrize("looks", ["read", "write"])
def test_a_consent_that_ran_out_before_anybody_looked_stays_expired_without_the_file(
    machine: Clock, tmp_path: Path, looks: str
) -> None:
    """Whoever only looks leaves the expiry in the log; so it does not matter what becomes of the file then."""
    machine.pass_(days=30)
    with machine.open(tmp_path / "home") as opened, getattr(opened.catalog, looks)(*["curator"][looks == "read" :]):
        pass
    (tmp_path / "home/catalog.db-seen").unlink()
    machine.at -= timedelta(days=30)
    machine.boot = "second"
    assert _refused(machine, tmp_path / "home") == ["clock.back", "clock.lost", "consent.refuse"]
    assert _refused(machine, tmp_path / "home") == ["clock.back", "consent.refuse"]


def test_an_earlier_copy_of_the_file_brings_nothing_back_once_anybody_looked(machine: Clock, tmp_path: Path) -> None:
    """A copy is as genuine as the file was, signed or not: what outlasts it is the log."""
    kept = tmp_path / "home/catalog.db-seen"
    earlier = kept.read_text()
    machine.pass_(days=30)
    with machine.open(tmp_path / "home") as opened, opened.catalog.read():
        pass
    kept.write_text(earlier)
    machine.at -= timedelta(days=30)
    machine.boot = "second"
    assert _refused(machine, tmp_path / "home") == ["clock.back", "consent.refuse"]


def _lost(machine: Clock, home: Path) -> int:
    """How many events the next two openings leave of a file that was taken away."""
    for _ in range(2):
        with machine.open(home) as opened, opened.catalog.read():
            pass
    with machine.open(home) as opened:
        return len(told(opened, "clock.lost"))


def test_an_earlier_time_typed_into_the_file_is_an_event(machine: Clock, tmp_path: Path) -> None:
    """Every field, one at a time, the sum at the end left or guessed; the file as it was is none."""
    kept = tmp_path / "home/catalog.db-seen"
    as_it_was = kept.read_text()
    at, boot, running, checked = as_it_was.split()
    earlier = iso(datetime.fromisoformat(at) - timedelta(hours=5))
    forged = [
        f"{earlier} {boot} {running} {checked}",
        f"{at} - {running} {checked}",
        f"{at} {boot} 1.00 {checked}",
        f"{earlier} {boot} {running}",
        f"{earlier} {boot} {running} {'0' * 16}",
    ]
    for count, text in enumerate([as_it_was, *forged]):
        kept.write_text(text)
        assert _lost(machine, tmp_path / "home") == count, text


@pytest.mark.parametrize("after", [None, "", "yesterday", "9999-12-31T00:00:00Z boot 1"])
def test_the_file_taken_away_is_an_event_whatever_the_clock_says(
    machine: Clock, tmp_path: Path, after: str | None
) -> None:
    kept = tmp_path / "home/catalog.db-seen"
    kept.unlink()
    if after is not None:
        kept.write_text(after)
    machine.at -= timedelta(hours=12)
    machine.boot = "second"
    assert _lost(machine, tmp_path / "home") == 1
    assert kept.read_text().startswith(iso(machine.at)[:10])


@pytest.mark.parametrize("what", ["a pipe", "a device without end"])
def test_what_is_no_file_in_its_place_counts_as_taken_away(machine: Clock, tmp_path: Path, what: str) -> None:
    kept = tmp_path / "home/catalog.db-seen"
    kept.unlink()
    os.mkfifo(kept) if what == "a pipe" else kept.symlink_to("/dev/zero")
    assert _lost(machine, tmp_path / "home") == 1
    assert kept.is_file()
    assert not kept.is_symlink()


def test_the_file_is_made_again_only_once_its_loss_is_on_record(
    machine: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "home/catalog.db-seen"
    kept.unlink()

    def busy(catalog: Catalog, actor: str) -> None:
        raise Busy(what="catalog", name="catalog.db")

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "write", busy)
        with machine.open(tmp_path / "home") as opened, opened.catalog.read():
            pass
    assert not kept.exists()
    with suppress(ZeroDivisionError), machine.open(tmp_path / "home") as opened, opened.catalog.write("curator") as uow:
        uow.event("undone", number=1 // 0)
    assert kept.exists()
    assert _lost(machine, tmp_path / "home") == 1


@pytest.mark.parametrize("how", ["folder copied", "restored", "catalog copied", "upgraded"])
def test_who_comes_by_a_registry_honestly_has_no_such_event(machine: Clock, tmp_path: Path, how: str) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    settings = load_settings(other, actor="curator", env={})
    with machine.open(home) as opened:
        if how == "folder copied":
            shutil.copytree(home, other)
        elif how == "restored":
            backups.backup(opened, tmp_path / "backup.tar")
            backups.restore(settings, tmp_path / "backup.tar")
        elif how == "catalog copied":
            other.mkdir()
            backups.copy_to(opened, f"sqlite:///{other}/catalog.db")
        else:
            shutil.copytree(home, other)
            schema.downgrade(settings.database_url, "0013")
            (other / "catalog.db-seen").unlink()
            upgrade_schema(settings)
    assert _lost(machine, other) == 0


def test_a_clock_that_goes_right_leaves_no_such_event(machine: Clock, tmp_path: Path) -> None:
    machine.pass_(days=2)
    machine.boot, machine.running = "second", 5.0
    with machine.open(tmp_path / "home") as opened:
        assert gate.ask(opened, "export", subjects=["s1"]).allowed
        machine.pass_(days=3)
        with opened.catalog.write("curator") as uow:
            uow.event("something")
        assert told(opened, "clock.back") == told(opened, "consent.expire") == []
    machine.pass_(days=30)
    assert _refused(machine, tmp_path / "home") == ["consent.expire", "consent.refuse"]


def test_a_folder_that_cannot_be_written_is_still_read(tmp_path: Path, registry: Registry) -> None:
    mark = tmp_path / "home/catalog.db-seen"
    for damaged in ("", "yesterday", "2026-01-01T00:00:00 boot nan", "9999-12-31T00:00:00Z boot 1"):
        mark.unlink(missing_ok=True)
        mark.write_text(damaged)
        with open_registry(registry.settings) as opened, opened.catalog.read() as session:
            assert abs(present(session) - now()) < timedelta(hours=1)
    mark.unlink()
    mark.mkdir()
    (mark / "in the way").touch()
    with open_registry(registry.settings) as opened, opened.catalog.read() as session:
        assert abs(present(session) - now()) < timedelta(hours=1)


def test_consent_is_judged_at_the_time_decisions_are_made_for() -> None:
    """Never at a clock's, which may have been set back."""
    judging = {"consent_states", "subject_state", "status_at", "decide", "has_ended", "describe", "combined_state"}
    for path in Path(services.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in judging:
                inside = [part for argument in call.args for part in ast.walk(argument) if isinstance(part, ast.Call)]
                names = {getattr(one.func, "attr", getattr(one.func, "id", "")) for one in inside}
                assert "now" not in names, f"{path.name}:{call.lineno}"
