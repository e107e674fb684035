"""Signed consents by the services: the file's terms count, one key a subject, the policy can demand them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.services.small import Small
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.credential import make_credential
from w2w_registry.consent.records import Scope, Use
from w2w_registry.errors import BadFile, ConsentDenied, IntegrityError, SecondPersonNeeded, UsageError
from w2w_registry.records import now
from w2w_registry.services.audit import log
from w2w_registry.services.consent import amendments, gate, grants, withdraw
from w2w_registry.services.reports import regulator
from w2w_registry.services.reports.regulator import Period

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SCOPE = Scope(purposes=("research",), derivatives=True)


@pytest.fixture
def small(sqlite_catalog: Catalog, tmp_path: Path) -> Small:
    return Small(sqlite_catalog, tmp_path)


SOON = timedelta(seconds=2)


def signed(
    folder: Path, subject: str = "s1", scope: Scope = SCOPE, key: bytes = KEY, at: datetime | None = None
) -> Path:
    path = folder / f"{subject}.jws"
    path.write_text(make_credential(subject, scope, key, at=at) + "\n")
    return path


def with_iat(folder: Path, **changed: Any) -> Path:
    """Signed as from before consents said when, or with something else in that place."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    head, payload, _ = make_credential("s1", SCOPE, KEY).split(".")
    told = {**json.loads(base64.urlsafe_b64decode(payload + "==")), **changed}
    told = {name: value for name, value in told.items() if value is not None}
    text = f"{head}.{base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip('=')}"
    signature = Ed25519PrivateKey.from_private_bytes(KEY).sign(text.encode())
    path = folder / "changed.jws"
    path.write_text(f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}\n")
    return path


def team_of(small: Small) -> Any:
    """The registry, with a policy that asks for two people."""
    return replace(small.registry, settings=replace(small.registry.settings, policy={}))


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


@pytest.mark.parametrize("how", ["withdrawn", "erased", "forgotten", "erased and forgotten"])
def test_what_proved_consent_before_a_withdrawal_is_no_new_consent(small: Small, tmp_path: Path, how: str) -> None:
    form = tmp_path / "form.txt"
    form.write_text("signed by hand")
    team = team_of(small)
    file = signed(tmp_path)
    grants.grant(team, "s1", None, signed=file)
    grants.grant(team, "s2", SCOPE, evidence=form)
    for subject in ("s1", "s2"):
        withdraw.withdraw(small.registry, subject, erase="erased" in how, protect="forgotten" not in how)
    with pytest.raises(BadFile, match="before s1 withdrew"):
        grants.grant(team, "s1", None, signed=file)
    with pytest.raises(SecondPersonNeeded):
        grants.grant(team, "s2", SCOPE, evidence=form)
    new = signed(tmp_path, scope=replace(SCOPE, publication=True), at=now() + SOON)
    assert grants.grant(team, "s1", None, signed=new)["scope"]["publication"]
    assert log.verify(team).ok


def test_a_consent_signed_before_a_withdrawal_and_handed_in_after_it_is_none(small: Small, tmp_path: Path) -> None:
    team = team_of(small)
    grants.grant(team, "s1", SCOPE)
    kept_back = signed(tmp_path)
    withdraw.withdraw(team, "s1")
    with pytest.raises(BadFile, match=r"signed .* before s1 withdrew .*consent sign s1"):
        grants.grant(team, "s1", None, signed=kept_back)
    assert grants.grant(team, "s1", None, signed=signed(tmp_path, at=now() + SOON))["status"] == "given"


def test_what_was_signed_before_a_consent_was_narrowed_does_not_widen_it_again(small: Small, tmp_path: Path) -> None:
    file = signed(tmp_path)
    grants.grant(small.registry, "s1", None, signed=file)
    amendments.narrow(small.registry, "s1", lambda scope: replace(scope, derivatives=False))
    with pytest.raises(BadFile, match="before s1 narrowed"):
        grants.grant(small.registry, "s1", None, signed=file)


@pytest.mark.parametrize(
    ("iat", "why"),
    [
        (None, "does not say when it was signed"),
        ((now() + timedelta(days=1)).timestamp(), "in the future"),
        ("yesterday", "no number of seconds"),
        (True, "no number of seconds"),
        (1e300, "no moment"),
    ],
    ids=["missing", "future", "words", "truth", "endless"],
)
def test_a_signed_consent_says_when_it_was_signed(small: Small, tmp_path: Path, iat: object, why: str) -> None:
    with pytest.raises(BadFile, match=why):
        grants.grant(small.registry, "s1", None, signed=with_iat(tmp_path, iat=iat))
    assert small.events() == ["space.add"]
    assert grants.grant(small.registry, "s1", None, signed=with_iat(tmp_path, iat=now().timestamp()))


def test_records_from_before_consents_said_when_still_hold(small: Small, tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as before:
        before.setattr("w2w_registry.services.consent.signatures.check_time", lambda *args: None)
        grants.grant(small.registry, "s1", None, signed=with_iat(tmp_path, iat=None))
    demanding = replace(small.registry, settings=replace(small.registry.settings, policy={"signed_consents": True}))
    gate.require(demanding, Use.GENERATE, versions=[small.add("a", "s1")])


def test_evidence_seen_before_a_refusal_proves_nothing_after_it_whatever_it_was_given_for(
    small: Small, tmp_path: Path
) -> None:
    form, new = tmp_path / "form.txt", tmp_path / "new.txt"
    form.write_text("of us both")
    new.write_text("again")
    team = team_of(small)
    grants.grant(team, "s1", SCOPE)
    grants.grant(team, "s2", SCOPE, evidence=form)
    withdraw.withdraw(team, "s1")
    with pytest.raises(SecondPersonNeeded):
        grants.grant(team, "s1", SCOPE, evidence=form)
    grants.grant(team, "s1", SCOPE, evidence=new)
    (row,) = regulator.report(team, Period())["lone"]
    assert (row["actor"], row["on"], row["about"]) == ("curator", "on_evidence", "s1")
    assert len(row["evidence"]) == 64


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
