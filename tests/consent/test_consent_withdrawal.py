"""The withdrawal plan, its tombstone and its receipts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from w2w_registry.consent import lifecycle, receipt
from w2w_registry.consent.records import Scope
from w2w_registry.consent.records import from_json as record_from_json
from w2w_registry.consent.withdrawal import (
    AffectedRelease,
    AffectedVersion,
    Step,
    Withdrawal,
    from_json,
    left,
    plan,
    remains,
    tombstone,
)
from w2w_registry.records import digest_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SALT = "5a" * 32


def make(erase: bool = True, **changes: object) -> Withdrawal:
    facts: dict[str, object] = {
        "records": ["cr-2", "cr-1"],
        "versions": [
            AffectedVersion(9, "acme/x@1", True, "active", ("d3", "d1")),
            AffectedVersion(4, "acme/a@1", False, "active", ("d1", "d2")),
        ],
        "releases": [AffectedRelease(2, "acme/a", "c0ffee", 4)],
        "shared_artifacts": ["d2", "d9"],
        "spaces": ["faces@1"],
        "recipients": ["lab-2", "lab-1"],
        **changes,
    }
    return plan("s1", NOW, erase=erase, protect=False, **facts)  # type: ignore[arg-type]


def test_block_comes_first_and_the_receipt_last() -> None:
    assert make().steps == (Step.BLOCK, Step.ERASE, Step.PURGE, Step.RECEIPT)
    assert make(erase=False).steps == (Step.BLOCK, Step.RECEIPT)


def test_what_was_done_is_not_left() -> None:
    assert left(make().steps, "block") == (Step.ERASE, Step.PURGE, Step.RECEIPT)
    assert left(make(erase=False).steps, "block") == (Step.RECEIPT,)
    assert left(make().steps, "receipt") == ()


def test_a_plan_reads_back() -> None:
    bare = make(versions=[AffectedVersion(4, "acme/a@1", False, "active")])
    assert from_json(json.loads(json.dumps(bare.to_json()))) == bare


def test_files_others_hold_stay() -> None:
    assert make().purged_artifacts == ("d1", "d3")
    assert make().kept_artifacts == ("d2",)
    assert make(erase=False).purged_artifacts == ()


def test_the_plan_does_not_depend_on_the_order_of_facts() -> None:
    assert make() == make(
        records=["cr-1", "cr-2"],
        versions=list(reversed(make().versions)),
        shared_artifacts=["d9", "d2"],
        recipients=["lab-1", "lab-2"],
    )
    assert json.loads(json.dumps(make().to_json()))["versions"][0]["ref"] == "acme/a@1"


def test_the_tombstone_names_nobody() -> None:
    stone = tombstone(make(), SALT)
    text = json.dumps(stone.__dict__)
    assert not any(word in text for word in ("s1", "acme", "lab", "cr-1"))
    assert (stone.versions, stone.releases, stone.files, stone.erased) == (2, 1, 2, True)
    assert stone.subject_digest == digest_of({"salt": SALT, "subject": "s1"})
    assert tombstone(make(), "00" * 32).subject_digest != stone.subject_digest


def test_the_receipt_says_what_remains_and_what_to_do() -> None:
    what = dict(remains(make(erase=False)))
    assert any("space refit faces@1 --without s1" in do for do in what.values())
    assert any("--erase" in do for do in what.values())
    assert any("out of reach" in text for text in what)
    assert remains(make(releases=[], spaces=[], shared_artifacts=[])) == ()


def test_withdrawal_receipts() -> None:
    stone = tombstone(make(), SALT)
    data = receipt.withdrawal_receipt(make(), stone, completed=NOW)
    assert data["versions"] == ["acme/a@1", "acme/x@1"]
    assert data["tombstone"] == stone.digest()
    text = receipt.withdrawal_markdown(make(), stone, completed=NOW)
    for expected in ("# Withdrawal of s1", "1 model and 1 made from them", "faces@1", "- lab-1", stone.digest()):
        assert expected in text


def test_a_reference_is_only_said_to_be_kept_of_a_model() -> None:
    stone = tombstone(make(), SALT)
    for versions, expected in ((make().versions, "a do-not-recreate"), ((), "no do-not-recreate")):
        protected = replace(make(), versions=tuple(versions), protect=True)
        assert f"- {expected} reference kept" in receipt.withdrawal_markdown(protected, stone, completed=NOW)


def test_consent_receipts() -> None:
    scope = Scope(purposes=("research",), territory=("EU",), expires_at=NOW.replace(year=2027))
    record = lifecycle.grant(
        lifecycle.request("cr-1", "s1", scope, NOW, "curator"), NOW, "cur|ator", evidence_digest="ab" * 32
    )
    data = receipt.receipt(record, NOW)
    assert record_from_json(json.loads(json.dumps(data))["record"]) == record
    assert data["status"] == "dpv:ConsentGiven"
    assert receipt.receipt(record, NOW.replace(year=2028))["status"] == "dpv:ConsentExpired"
    text = receipt.receipt_markdown(record, NOW)
    for expected in ("cr-1", "research", "EU", "2027-03-01", "ab" * 32, "cur\\|ator", record.digest()):
        assert expected in text
    public = json.dumps(receipt.public_consent([record], NOW))
    assert record.digest() in public
    assert "s1" not in public
    assert "curator" not in public
    assert "ab" * 32 not in public
