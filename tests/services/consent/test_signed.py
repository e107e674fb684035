"""Signed consents by the services: the file's terms count, one key a subject, the policy can demand them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.small import Small
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.credential import make_credential
from w2w_registry.consent.records import Scope, Use
from w2w_registry.errors import BadFile, ConsentDenied, IntegrityError, SecondPersonNeeded, UsageError
from w2w_registry.services.audit import log
from w2w_registry.services.consent import gate, grants, withdraw

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SCOPE = Scope(purposes=("research",), derivatives=True)


@pytest.fixture
def small(sqlite_catalog: Catalog, tmp_path: Path) -> Small:
    return Small(sqlite_catalog, tmp_path)


def signed(folder: Path, subject: str = "s1", scope: Scope = SCOPE, key: bytes = KEY) -> Path:
    path = folder / f"{subject}.jws"
    path.write_text(make_credential(subject, scope, key) + "\n")
    return path


def test_the_terms_are_those_of_the_file(small: Small, tmp_path: Path) -> None:
    told = grants.grant(small.registry, "s1", None, signed=signed(tmp_path))
    assert (told["scope"]["purposes"], told["scope"]["derivatives"]) == (["research"], True)
    narrower = Scope(purposes=("research",))
    assert not grants.grant(small.registry, "s1", narrower, signed=signed(tmp_path))["scope"]["derivatives"]
    with pytest.raises(UsageError):
        grants.grant(small.registry, "s1", Scope(purposes=("any",)), signed=signed(tmp_path))
    with pytest.raises(BadFile):
        grants.grant(small.registry, "s2", None, signed=signed(tmp_path))
    assert log.verify(small.registry).ok


def test_one_key_a_subject(small: Small, tmp_path: Path) -> None:
    grants.grant(small.registry, "s1", None, signed=signed(tmp_path))
    with pytest.raises(IntegrityError):
        grants.grant(small.registry, "s1", None, signed=signed(tmp_path, key=OTHER))
    grants.grant(small.registry, "s2", None, signed=signed(tmp_path, "s2", key=OTHER))


def test_what_proved_consent_before_a_withdrawal_is_no_new_consent(small: Small, tmp_path: Path) -> None:
    form = tmp_path / "form.txt"
    form.write_text("signed by hand")
    team = replace(small.registry, settings=replace(small.registry.settings, policy={}))
    file = signed(tmp_path)
    grants.grant(team, "s1", None, signed=file)
    grants.grant(team, "s2", SCOPE, evidence=form)
    for subject in ("s1", "s2"):
        withdraw.withdraw(team, subject)
    with pytest.raises(SecondPersonNeeded):
        grants.grant(team, "s1", None, signed=file)
    with pytest.raises(SecondPersonNeeded):
        grants.grant(team, "s2", SCOPE, evidence=form)
    wider = replace(SCOPE, publication=True)
    assert grants.grant(team, "s1", None, signed=signed(tmp_path, scope=wider))["scope"]["publication"]
    assert log.verify(team).ok


def test_a_policy_can_demand_them(sqlite_catalog: Catalog, tmp_path: Path) -> None:
    small = Small(sqlite_catalog, tmp_path, policy={"signed_consents": True})
    version = small.add("a", "s1")
    with pytest.raises(UsageError, match="signed"):
        grants.grant(small.registry, "s1", SCOPE)
    grants.grant(small.registry, "s1", None, signed=signed(tmp_path))
    gate.require(small.registry, Use.GENERATE, versions=[version])
    with pytest.raises(ConsentDenied):
        gate.require(small.registry, Use.GENERATE, versions=[version], purpose="film")
    withdraw.withdraw(small.registry, "s1")
    with pytest.raises(ConsentDenied):
        gate.require(small.registry, Use.GENERATE, versions=[version])


def test_a_file_that_is_none_is_refused(small: Small, tmp_path: Path) -> None:
    (tmp_path / "x.jws").write_text("a.b.c")
    with pytest.raises(BadFile, match="no signed consent"):
        grants.grant(small.registry, "s1", None, signed=tmp_path / "x.jws")
    assert small.events() == ["space.add"]


def test_missing_notice_controller_and_way_to_withdraw_are_warned_about(small: Small) -> None:
    told = " ".join(grants.grant(small.registry, "s1", SCOPE)["warnings"])
    for word in ("no notice", "no controller", "no way to withdraw"):
        assert word in told


def test_the_receipt_of_a_withdrawal_lists_what_was_given_out(small: Small) -> None:
    small.grant("s1")
    version = small.add("a", "s1")
    with small.registry.catalog.write("curator") as uow:
        uow.event("version.export", {"version": version}, files=["ab" * 32])
    receipt = withdraw.withdraw(small.registry, "s1")["receipt"]
    assert [(one["what"], one["sha256"]) for one in receipt["given_out"]] == [("file", "ab" * 32)]
