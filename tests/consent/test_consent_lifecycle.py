"""The record's state machine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_registry.consent import lifecycle
from w2w_registry.consent.records import ConsentRecord, Notice, Scope, Status
from w2w_registry.errors import Conflict, RegistryError, UsageError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
SCOPE = Scope(purposes=("research", "ads"), derivatives=True, expires_at=NOW + YEAR)


def given_record(scope: Scope = SCOPE) -> ConsentRecord:
    return lifecycle.grant(lifecycle.request("cr-1", "s1", scope, NOW, "curator"), NOW, "curator")


def test_request_then_grant_keeps_history() -> None:
    asked = lifecycle.request("cr-1", "s1", SCOPE, NOW, "curator", notice=Notice(notice="n-1", language="en"))
    assert asked.status is Status.REQUESTED
    got = lifecycle.grant(asked, NOW, "subject", evidence_digest="ab" * 32, guardian="g1", compensation="none")
    assert (got.status, got.guardian, got.notice.notice, got.scope.valid_from) == (Status.GIVEN, "g1", "n-1", NOW)
    assert [e.kind for e in got.events] == ["request", "grant"]
    assert got.events[-1].until == SCOPE.expires_at


def test_status_follows_the_clock() -> None:
    consent = given_record()
    assert consent.status_at(NOW + YEAR - timedelta(seconds=1)) is Status.GIVEN
    assert consent.status_at(NOW + YEAR) is Status.EXPIRED


def test_narrow_only_narrows() -> None:
    consent = given_record()
    scope = replace(consent.scope, purposes=("research",), derivatives=False)
    smaller = lifecycle.narrow(consent, "cr-2", scope, NOW, "subject")
    assert (smaller.record_id, smaller.supersedes, smaller.scope) == ("cr-2", "cr-1", scope)
    assert [e.kind for e in smaller.events] == ["request", "grant", "narrow"]
    with pytest.raises(UsageError):
        lifecycle.narrow(smaller, "cr-3", consent.scope, NOW, "subject")
    with pytest.raises(Conflict):
        lifecycle.narrow(consent, "cr-3", scope, NOW + 2 * YEAR, "subject")


def test_renew_extends_also_after_the_end() -> None:
    later = lifecycle.renew(given_record(), "cr-2", NOW + 3 * YEAR, NOW + 2 * YEAR, "subject")
    assert later.status_at(NOW + 2 * YEAR) is Status.GIVEN
    assert lifecycle.renew(given_record(), "cr-2", None, NOW, "subject").scope.expires_at is None
    for moment in (NOW - YEAR, NOW + YEAR / 2):
        with pytest.raises(UsageError):
            lifecycle.renew(given_record(), "cr-2", moment, NOW, "subject")


def test_withdrawn_stays_withdrawn() -> None:
    gone = lifecycle.withdraw(given_record(), NOW, "subject")
    assert lifecycle.withdraw(gone, NOW + YEAR, "subject") is gone
    for move in (
        lambda r: lifecycle.renew(r, "cr-2", None, NOW, "x"),
        lambda r: lifecycle.grant(r, NOW, "x"),
        lambda r: lifecycle.dispute(r, NOW, "x"),
        lambda r: lifecycle.narrow(r, "cr-2", r.scope, NOW, "x"),
    ):
        with pytest.raises(Conflict):
            move(gone)


def test_dispute_suspends_until_resolved() -> None:
    contested = lifecycle.dispute(given_record(), NOW, "third-party", note_digest="cd" * 32)
    assert contested.status is Status.DISPUTED
    assert lifecycle.resolve(contested, True, NOW, "curator").status is Status.GIVEN
    dead = lifecycle.resolve(contested, False, NOW, "curator")
    assert dead.status is Status.INVALIDATED
    assert lifecycle.invalidate(dead, NOW, "curator") is dead
    with pytest.raises(Conflict):
        lifecycle.withdraw(dead, NOW, "subject")
    with pytest.raises(Conflict):
        lifecycle.resolve(given_record(), True, NOW, "curator")


def test_receipt_and_access_leave_the_state() -> None:
    consent = given_record()
    assert lifecycle.note(consent, "receipt", NOW, "curator").status is Status.GIVEN
    assert lifecycle.note(consent, "access", NOW, "subject").events[:-1] == consent.events
    with pytest.raises(UsageError):
        lifecycle.note(consent, "withdraw", NOW, "curator")


@pytest.mark.parametrize(
    "scope",
    [
        Scope(),
        Scope(purposes=("research",), uses=()),
        Scope(purposes=("research",), territory=()),
        Scope(purposes=("research",), valid_from=NOW, expires_at=NOW),
    ],
)
def test_scopes_that_can_never_hold_are_refused(scope: Scope) -> None:
    with pytest.raises(UsageError):
        lifecycle.request("cr-1", "s1", scope, NOW, "curator")


def test_a_grant_that_is_already_over_is_refused() -> None:
    asked = lifecycle.request("cr-1", "s1", SCOPE, NOW, "curator")
    with pytest.raises(UsageError):
        lifecycle.grant(asked, NOW + YEAR, "curator")


MOVES = ("grant", "narrow", "renew", "dispute", "resolve", "withdraw", "invalidate", "receipt", "access")


@given(st.lists(st.sampled_from(MOVES), max_size=12))
def test_history_only_grows_and_withdrawal_is_final_whatever_is_tried(moves: list[str]) -> None:
    record = lifecycle.request("cr-1", "s1", SCOPE, NOW, "curator")
    for i, move in enumerate(moves):
        at = NOW + timedelta(hours=i)
        before = record
        try:
            record = {
                "grant": lambda: lifecycle.grant(record, at, "x"),  # noqa: B023
                "narrow": lambda: lifecycle.narrow(record, f"cr-{i}", record.scope, at, "x"),  # noqa: B023
                "renew": lambda: lifecycle.renew(record, f"cr-{i}", None, at, "x"),  # noqa: B023
                "dispute": lambda: lifecycle.dispute(record, at, "x"),  # noqa: B023
                "resolve": lambda: lifecycle.resolve(record, True, at, "x"),  # noqa: B023
                "withdraw": lambda: lifecycle.withdraw(record, at, "x"),  # noqa: B023
                "invalidate": lambda: lifecycle.invalidate(record, at, "x"),  # noqa: B023
                "receipt": lambda: lifecycle.note(record, "receipt", at, "x"),  # noqa: B023
                "access": lambda: lifecycle.note(record, "access", at, "x"),  # noqa: B023
            }[move]()
        except RegistryError:
            assert record is before
        assert record.events[: len(before.events)] == before.events
        if before.status in {Status.WITHDRAWN, Status.INVALIDATED}:
            assert record.status in {before.status, Status.INVALIDATED}
