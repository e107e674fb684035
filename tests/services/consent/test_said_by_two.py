"""What one person says alone: whom a version depicts that is there, that somebody agrees again, a laxer policy."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.services.beginnings import Beginnings
from tests.services.world import BASE
from w2w_registry.catalog.listing import list_versions
from w2w_registry.catalog.models import GuardReference
from w2w_registry.catalog.where import parse_where
from w2w_registry.consent.records import Scope
from w2w_registry.errors import (
    Conflict,
    LikenessRefused,
    NotCompared,
    SecondPersonNeeded,
    SettingError,
    UsageError,
)
from w2w_registry.records import now
from w2w_registry.services.audit import log, queries
from w2w_registry.services.consent import amendments, grants, protect, resolve, subjects, withdraw
from w2w_registry.services.identities import intake, manage
from w2w_registry.services.identities.ingest import AddRequest, Item, add
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis.export import export

EVERYTHING = Scope(purposes=("any",), derivatives=True, publication=True)


@pytest.fixture
def home(registry: Registry, beginnings: Beginnings, loras: Path) -> Registry:
    team = replace(registry, settings=replace(registry.settings, policy={"space_people": 2}))
    beginnings.begin(team, "said-by-two", lambda empty: fill(empty, loras))
    return team


def fill(team: Registry, loras: Path) -> None:
    fit_space(team, "faces", [str(loras)], base_model=BASE)
    put(team, loras / "p0003", name="alice", subjects=["s-alice"])
    put(team, *(loras / f"p{i:04d}" for i in range(40, 60)))


@pytest.fixture
def other(home: Registry) -> Registry:
    return replace(home, settings=replace(home.settings, actor="olga"))


def put(registry: Registry, *paths: Path, **options: object) -> Item:
    return add(registry, AddRequest([str(p) for p in paths], space="faces", **options)).items[0]  # type: ignore[arg-type]


def test_whom_a_version_depicts_that_is_there_takes_two_or_evidence(
    home: Registry, other: Registry, loras: Path
) -> None:
    for _ in range(2):  # saying it twice is still one person
        item = put(home, loras / "p0041", subjects=["s-mallory"])
        assert isinstance(item.error, SecondPersonNeeded)
        assert manage.show(home, "p0041")["subjects"] == []
    assert put(other, loras / "p0041", subjects=["s-other"]).status == "failed"  # not the same
    agreed = put(other, loras / "p0041", subjects=["S-Mallory"])  # the same, as ids are compared
    assert (agreed.status, agreed.updated) == ("existing", ("subject S-Mallory",))
    assert manage.show(home, "p0041")["subjects"] == ["S-Mallory"]
    assert put(home, loras / "p0042", subjects=["s-42"], evidence="e" * 64).status == "existing"
    (told,) = [e for e in log.events_list(home, action="version.depict") if e["payload"]["evidence"]]
    assert told["payload"]["evidence"] == "e" * 64
    assert log.verify(home).ok


def test_whom_an_adapter_in_no_space_depicts_takes_two_or_evidence(registry: Registry, loras: Path) -> None:
    team = replace(registry, settings=replace(registry.settings, policy={}))
    other = replace(team, settings=replace(team.settings, actor="olga"))

    def unplaced(who: Registry, **options: Any) -> Item:
        request = AddRequest([str(loras / "p0041")], base_model=BASE, **options)
        (item,) = intake.perform(who, request, intake.plan(who, intake.survey(request), fit=False)).items
        return item

    assert unplaced(team).status == "added"
    for _ in range(2):
        assert isinstance(unplaced(team, subjects=["s-mallory"]).error, SecondPersonNeeded)
    assert manage.show(team, "p0041")["subjects"] == []
    assert unplaced(other, subjects=["s-mallory"]).status == "existing"
    assert unplaced(team, subjects=["s-42"], evidence="e" * 64).status == "existing"
    assert manage.show(team, "p0041")["subjects"] == ["s-42", "s-mallory"]
    assert manage.show(team, "p0041")["space"] is None
    decided = [e["payload"]["decided_by"] for e in log.events_list(team, action="version.depict")]
    assert sorted(decided) == ["evidence", "two"]


@pytest.mark.parametrize("how", ["withdraw", "erase", "invalidate", "protect"])
def test_that_somebody_agrees_again_takes_two_or_evidence(
    home: Registry, other: Registry, loras: Path, tmp_path: Path, how: str
) -> None:
    grants.grant(home, "s-alice", EVERYTHING)
    if how == "invalidate":
        withdraw.invalidate(home, "s-alice")
    elif how == "protect":
        protect.protect_subject(home, "s-new", str(loras / "p0007"))
    else:
        withdraw.withdraw(home, "s-alice", erase=how == "erase")
    who = "s-new" if how == "protect" else "s-alice"
    with pytest.raises(SecondPersonNeeded):
        grants.grant(home, who, EVERYTHING)
    with pytest.raises(SecondPersonNeeded):
        grants.grant(other, who, Scope(purposes=("research",)))  # not the same
    assert grants.grant(other, who, EVERYTHING)["status"] == "given"
    form = tmp_path / "form.pdf"
    form.write_bytes(b"signed")
    withdraw.withdraw(home, who)
    assert grants.grant(home, who, EVERYTHING, evidence=form)["status"] == "given"


def test_an_old_word_does_not_count_for_a_new_withdrawal(home: Registry, other: Registry) -> None:
    grants.grant(home, "s-alice", EVERYTHING)
    withdraw.withdraw(home, "s-alice")
    with pytest.raises(SecondPersonNeeded):
        grants.grant(home, "s-alice", EVERYTHING)
    grants.grant(other, "s-alice", EVERYTHING)
    withdraw.withdraw(home, "s-alice")
    with pytest.raises(SecondPersonNeeded):
        grants.grant(other, "s-alice", EVERYTHING)


def test_a_laxer_policy_takes_two_where_two_work(home: Registry, other: Registry) -> None:
    assert policies.adopt(home, items=["second_person=true", "space_people=2"])["changed"]
    grants.grant(other, "s-x", EVERYTHING)
    for items in (["second_person=false"], ['unknown=["register", "export"]'], ["likeness_kinds=[]"]):
        with pytest.raises(SecondPersonNeeded):
            policies.adopt(home, items=items)
        with pytest.raises(SecondPersonNeeded):
            policies.adopt(home, items=items)
    assert policies.adopt(home, items=["purpose=art"])["changed"]  # no laxer
    with pytest.raises(SecondPersonNeeded):
        policies.adopt(other, items=["likeness_kinds=[]"])  # asked of another policy
    assert policies.adopt(home, items=["likeness_kinds=[]"])["changed"]
    with pytest.raises(UsageError):
        policies.adopt(home, items=["nonsense=1"])
    with pytest.raises(SettingError):
        policies.adopt(home, items=["second_person=perhaps"])


def test_what_a_command_sets_is_written_down(home: Registry) -> None:
    file = home.settings.home / "registry.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('# ours\n[policy]\npurpose = "art"  # why\n\n[hub]\ntrusted = ["acme"]\n')
    policies.adopt(home, items=["purpose=research", "second_person=false"])
    text = file.read_text()
    assert 'purpose = "research"' in text
    assert "second_person = false" in text
    assert text.index("second_person") < text.index("[hub]")
    assert text.startswith("# ours\n")


@pytest.mark.parametrize("typed", ["S-ALICE", "s-Alice"])
def test_subjects_are_known_in_upper_and_lower_case(home: Registry, loras: Path, typed: str) -> None:
    grants.grant(home, "s-alice", EVERYTHING)
    assert subjects.show_subject(home, typed)["subject"] == "s-alice"
    with pytest.raises(Conflict):
        subjects.add_subject(home, typed)
    assert isinstance(put(home, loras / "p0011", name="x", subjects=[typed]).error, Conflict)
    with home.catalog.read() as session:
        for where in (f"subject = {typed}", f"subject in ('{typed}', 'z')", f"not (subject != {typed})"):
            found = [line.identity.name for line in list_versions(session, parse_where(where))]
            assert "alice" in found, where
    assert queries.ask(home, "subject", queries.Filters(subject=typed))[0]["id"] == "s-alice"
    assert withdraw.withdraw(home, typed)["already"] is False
    assert manage.show(home, "alice")["state"] == "blocked"


def test_letters_beyond_ascii_are_folded_too(home: Registry) -> None:
    subjects.add_subject(home, "straße-É")
    for typed in ("STRASSE-é", "strasse-e\u0301"):
        assert subjects.show_subject(home, typed)["subject"] == "straße-É"


def test_what_came_from_outside_does_not_leave_uncompared(
    home: Registry, other: Registry, loras: Path, tmp_path: Path
) -> None:
    put(home, loras / "p0011", name="eleven", subjects=["s-11"])
    put(home, loras / "p0012", name="vase", kind="product")
    grants.grant(home, "s-11", EVERYTHING)
    export(home, "eleven", str(tmp_path / "a"))  # nobody refused: nobody to compare with
    withdraw.withdraw(home, "s-alice")
    with pytest.raises(NotCompared) as caught:
        export(home, "eleven", str(tmp_path / "b"))
    assert (caught.value.name, caught.value.exit_code) == ("eleven@1", 4)
    with pytest.raises(NotCompared):
        export(home, "vase", str(tmp_path / "c"))  # of which kind it is said to be changes nothing
    with pytest.raises(SecondPersonNeeded):
        resolve.resolve(home, "eleven", distinct=True, reason="I know them")
    resolve.resolve(other, "eleven", distinct=True, reason="seen their pictures")
    export(home, "eleven", str(tmp_path / "d"))
    alone = replace(home, settings=replace(home.settings, policy={"space_people": 2, "second_person": False}))
    put(home, loras / "p0013", name="thirteen", subjects=["s-11"])
    export(alone, "thirteen", str(tmp_path / "e"))


@pytest.mark.parametrize("how", ["grant", "renew", "narrower"])
def test_a_consent_that_has_run_out_takes_two_to_bring_back(home: Registry, other: Registry, how: str) -> None:
    soon = replace(EVERYTHING, expires_at=now() + timedelta(milliseconds=300))
    grants.grant(home, "s-alice", soon)
    while now() < soon.expires_at:  # type: ignore[operator]
        time.sleep(0.05)
    scope = Scope(purposes=("research",)) if how == "narrower" else EVERYTHING
    again = (
        (lambda who: amendments.renew(who, "s-alice", None))
        if how == "renew"
        else (lambda who: grants.grant(who, "s-alice", scope))
    )
    for _ in range(2):
        with pytest.raises(SecondPersonNeeded):
            again(home)
    assert again(other)["status"] == "given"
    assert grants.grant(home, "s-alice", EVERYTHING)["status"] == "given"  # they do agree by now


def test_that_a_disputed_consent_stands_takes_two(home: Registry, other: Registry) -> None:
    grants.grant(home, "s-alice", EVERYTHING)
    amendments.dispute(home, "s-alice")
    for _ in range(2):
        with pytest.raises(SecondPersonNeeded):
            amendments.resolve(home, "s-alice", upheld=True)
    with pytest.raises(SecondPersonNeeded):
        grants.grant(home, "s-alice", EVERYTHING)  # nor by another record
    assert amendments.resolve(other, "s-alice", upheld=True)["status"] == "given"
    amendments.dispute(home, "s-alice")
    with pytest.raises(SecondPersonNeeded):
        amendments.resolve(other, "s-alice", upheld=True)  # that was another dispute
    assert amendments.resolve(other, "s-alice", upheld=False)["status"] == "invalidated"


def test_whose_consent_is_disputed_does_not_come_in_under_another_name(
    home: Registry, other: Registry, loras: Path
) -> None:
    grants.grant(home, "s-alice", EVERYTHING)
    manage.remove(home, "alice", perform=True)
    assert put(home, loras / "p0061", name="x").status == "added"
    amendments.dispute(home, "s-alice")
    item = put(home, loras / "p0003", name="brush", kind="style")
    assert isinstance(item.error, LikenessRefused)


def test_forgetting_somebody_takes_two_and_withdrawing_one(home: Registry, other: Registry, loras: Path) -> None:
    grants.grant(home, "s-alice", EVERYTHING)
    for _ in range(2):
        with pytest.raises(SecondPersonNeeded):
            withdraw.withdraw(home, "s-alice", erase=True, protect=False)
    assert manage.show(home, "alice")["state"] == "active"  # nothing was done
    withdraw.withdraw(home, "s-alice", erase=True)
    assert isinstance(put(home, loras / "p0003", name="x").error, LikenessRefused)
    with pytest.raises(SecondPersonNeeded):
        withdraw.withdraw(home, "s-alice", erase=True, protect=False)
    withdraw.withdraw(other, "s-alice", erase=True, protect=False)
    with home.catalog.read() as session:
        assert session.scalars(select(GuardReference)).all() == []  # what was kept is forgotten
