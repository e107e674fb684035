"""Consent operations on both databases: what they write, and what they refuse."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from string import Formatter

import pytest

from tests.services.small import ANY, Small, digest
from w2w_registry.catalog.models import ConsentRecord
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.subjects import ConsentEventType
from w2w_registry.consent import receipt, withdrawal
from w2w_registry.consent.records import ANY_PURPOSE, PURPOSES, Notice, Scope, Status, Use
from w2w_registry.errors import BadFile, BadName, Conflict, NotFound, UsageError
from w2w_registry.records import now
from w2w_registry.services import reports
from w2w_registry.services.consent import amendments, grants, receipts, scopes, showing, subjects, withdraw


@pytest.fixture
def small(catalog: Catalog, tmp_path: Path) -> Small:
    return Small(catalog, tmp_path)


RESEARCH = Scope(purposes=("research",), derivatives=True)


def test_subjects_are_added_once(small: Small) -> None:
    assert subjects.add_subject(small.registry, "s1")["created"]
    assert not subjects.add_subject(small.registry, "s1")["created"]
    assert small.events().count("subject.add") == 1
    with pytest.raises(BadName):
        subjects.add_subject(small.registry, "a b")
    with pytest.raises(NotFound):
        subjects.show_subject(small.registry, "nobody")


def test_a_request_is_answered(small: Small) -> None:
    version = small.add("a", "s1")
    asked = grants.request(
        small.registry, "s1", RESEARCH, notice=Notice(notice="n-7", language="en", recipients=("lab-1",))
    )
    assert not small.allowed(Use.EDIT, version)
    given = grants.grant(small.registry, "s1", None, record_id=asked["record_id"], guardian="g1")
    assert small.allowed(Use.EDIT, version)
    assert given["record_id"] == asked["record_id"]
    assert [e["kind"] for e in given["events"]] == ["request", "grant"]
    shown = showing.show(small.registry, "s1")
    assert shown["consent"] == "granted"
    assert shown["records"] == [{k: v for k, v in given.items() if k not in ("restored", "warnings")}]
    assert shown["records"][0]["notice"]["recipients"] == ["lab-1"]
    with pytest.raises(Conflict):
        grants.grant(small.registry, "s1", None, record_id=asked["record_id"])
    with pytest.raises(NotFound):
        grants.grant(small.registry, "s1", None, record_id="other")


def test_narrow_and_renew_supersede(small: Small) -> None:
    version = small.add("a", "s1")
    first = small.grant("s1", replace(ANY, expires_at=now() + timedelta(days=5)))
    second = amendments.narrow(small.registry, "s1", lambda s: replace(s, publication=False))
    assert second["supersedes"] == first["record_id"]
    assert not small.allowed(Use.PUBLISH, version)
    assert small.allowed(Use.EDIT, version)
    with pytest.raises(UsageError):
        amendments.narrow(small.registry, "s1", lambda s: replace(s, publication=True))
    third = amendments.renew(small.registry, "s1", now() + timedelta(days=50))
    assert small.allowed(Use.EDIT, version, at=now() + timedelta(days=20))
    assert [e["kind"] for e in third["events"]] == ["grant", "narrow", "renew"]
    assert [r["record_id"] for r in showing.show(small.registry, "s1")["records"]] == [third["record_id"]]
    with small.registry.catalog.read() as session:
        assert session.get_one(ConsentRecord, first["record_id"]).state.value == "expired"


def test_grants_add_up_and_ambiguity_is_named(small: Small) -> None:
    version = small.add("a", "s1")
    small.grant("s1", RESEARCH)
    ads = small.grant("s1", Scope(purposes=("ads",)))
    assert small.allowed(Use.GENERATE, version)
    assert small.allowed(Use.GENERATE, version, purpose="ads")
    with pytest.raises(Conflict, match="name one"):
        amendments.renew(small.registry, "s1", None)
    narrowed = amendments.narrow(
        small.registry, "s1", lambda s: replace(s, uses=(Use.SEARCH,)), record_id=ads["record_id"]
    )
    assert narrowed["scope"]["uses"] == ["search"]
    assert not small.allowed(Use.GENERATE, version, purpose="ads")


def test_disputes_suspend(small: Small) -> None:
    version = small.add("a", "s1")
    small.grant("s1")
    amendments.dispute(small.registry, "s1")
    assert not small.allowed(Use.GENERATE, version)
    assert showing.show(small.registry, "s1")["consent"] == "unknown"
    amendments.resolve(small.registry, "s1", upheld=True)
    assert small.allowed(Use.GENERATE, version)
    amendments.dispute(small.registry, "s1")
    amendments.resolve(small.registry, "s1", upheld=False)
    assert showing.show(small.registry, "s1")["consent"] == "invalidated"
    with pytest.raises(Conflict):
        amendments.dispute(small.registry, "s1")


def test_invalidating_blocks_what_depends_on_it(small: Small) -> None:
    a = small.add("a", "s1")
    small.grant("s1")
    edited = small.derive("e", a)
    small.release(edited, "acme/e")
    other = small.add("b", "s2")
    done = withdraw.invalidate(small.registry, "s1")
    assert (done["blocked"], done["releases_queued"]) == (2, 1)
    assert [small.state(v) for v in (a, edited, other)] == ["blocked", "blocked", "active"]
    again = withdraw.invalidate(small.registry, "s1")
    assert (again["invalidated"], again["blocked"], again["releases_queued"]) == ([], 0, 0)
    with pytest.raises(NotFound):
        withdraw.invalidate(small.registry, "s2")


def test_one_of_two_records_invalidated_blocks_nothing(small: Small) -> None:
    a = small.add("a", "s1")
    first = small.grant("s1", RESEARCH)
    small.grant("s1", Scope(purposes=("ads",)))
    assert withdraw.invalidate(small.registry, "s1", record_id=first["record_id"])["blocked"] == 0
    assert small.state(a) == "active"
    assert not small.allowed(Use.GENERATE, a)
    assert small.allowed(Use.GENERATE, a, purpose="ads")


def test_evidence_is_kept_by_digest_unless_asked(small: Small, tmp_path: Path) -> None:
    form = tmp_path / "form.pdf"
    form.write_bytes(b"signed form")
    kept = small.grant("s1", evidence=form)
    assert kept["evidence_digest"] == digest("signed form")
    assert not small.registry.artifacts.exists(digest("signed form"))
    small.grant("s1", evidence=form, keep_evidence=True)
    assert small.registry.artifacts.get(digest("signed form")) == b"signed form"
    with pytest.raises(BadFile):
        small.grant("s1", evidence=tmp_path / "missing.pdf")


def test_receipts_are_issued_and_noted(small: Small) -> None:
    granted = small.grant("s1", RESEARCH)
    [one] = receipts.receipt(small.registry, "s1")
    assert one["json"]["identifier"] == granted["record_id"]
    assert "| Purposes | research |" in one["markdown"]
    assert showing.show(small.registry, "s1")["records"][0]["events"][-1]["kind"] == "receipt"
    assert one["json"]["digest"] == showing.show(small.registry, "s1")["records"][0]["digest"]
    subjects.add_subject(small.registry, "s2")
    with pytest.raises(NotFound):
        receipts.receipt(small.registry, "s2")


def test_a_receipt_says_how_to_withdraw_today_and_what_is_missing(small: Small) -> None:
    small.grant("s1", RESEARCH)
    [one] = receipts.receipt(small.registry, "s1")
    assert "withdrawal_method" not in one["json"]
    assert ["no notice" in one["warnings"][0], "no way to withdraw" in one["warnings"][-1]] == [True, True]
    settings = replace(small.registry.settings, organisation={"contact": "privacy@example.org"})
    [one] = receipts.receipt(replace(small.registry, settings=settings), "s1")
    assert "privacy@example.org" in one["json"]["withdrawal_method"]
    assert "| To withdraw | write to privacy@example.org" in one["markdown"]
    assert one["json"]["record"]["notice"]["withdrawal_method"] is None
    assert not any("withdraw" in text for text in one["warnings"])


def test_check_lists_every_use(small: Small) -> None:
    small.add("a", "s1")
    small.grant("s1", RESEARCH)
    found = showing.check(small.registry, "a@1")
    allowed = {d["use"]: d["allowed"] for d in found["decisions"]}
    assert (found["version"], found["consent"], found["purpose"]) == ("a@1", "granted", "research")
    assert allowed["edit"]
    assert not allowed["publish"]
    assert len(allowed) == len(Use)
    with pytest.raises(NotFound):
        showing.check(small.registry, "missing")


def test_scopes_from_what_people_type() -> None:
    scope = scopes.build_scope(["Research", "any"], territory=["de", "DE"], uses=["edit"], forbidden=["Ads"])
    assert scope.purposes == ("research", "any")
    assert (scope.territory, scope.uses, scope.forbidden, scope.derivatives) == (("DE",), (Use.EDIT,), ("ads",), True)
    assert scopes.build_scope(["x"]).uses is None
    assert scopes.build_scope(["x"]).territory is None


def test_a_failed_operation_writes_nothing(small: Small) -> None:
    before = small.events()
    with pytest.raises(UsageError):
        small.grant("s1", Scope())
    assert small.events() == before
    with pytest.raises(NotFound):
        subjects.show_subject(small.registry, "s1")


def test_evidence_is_a_regular_file(small: Small, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadFile, match="not a regular file"):
            small.grant("s-pipe", evidence=path)


def test_receipts_in_the_subject_s_language(small: Small) -> None:
    """The notice's language, or the one asked for; every word of the vocabulary and of the page has one."""
    small.grant("s1", notice=Notice(notice="n-1", language="ja-JP", recipients=("print shop",)))
    small.grant("s2", notice=Notice(notice="n-1", language="fr"))
    said: dict[str, str] = {}
    for language in (None, "ja"):
        (one,) = receipts.receipt(small.registry, "s1", language=language)
        said[str(language)] = one["markdown"]
        assert one["markdown"].startswith("# 同意の受領証")
        assert "print shop" in one["markdown"]
        latin = set(re.findall(r"(?<![\w-])[A-Za-z]{3,}(?![\w-])", re.sub(r"`[^`]*`", "", one["markdown"])))
        assert latin <= {"SHA", "UTC", "LoRA", "print", "shop", "curator"}, latin
    (english,) = receipts.receipt(small.registry, "s1", language="en")
    assert english["markdown"].startswith("# Consent receipt")
    assert receipts.receipt(small.registry, "s2")[0]["markdown"].startswith("# Consent receipt")  # no words for it
    with pytest.raises(UsageError, match="xx"):
        receipts.receipt(small.registry, "s1", language="xx")


def test_every_sentence_that_a_subject_reads_is_in_every_language() -> None:
    """What the receipts say, of a consent or of a withdrawal, is in each catalogue with no other blanks."""
    said = {receipt.WAY_TO_WITHDRAW, receipt._KEEP, "picture", "file"}
    for page in (receipt, withdrawal):
        for call in ast.walk(ast.parse(Path(page.__file__).read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "say" and call.args:
                said |= {n.value for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant) and n.value != 1}
    assert len(said) > 35
    for language in set(receipts.LANGUAGES) - {"en"}:
        words = receipts.words_of(language)
        assert said - words.keys() == set()
        for text in said:
            blanks = {name for _, name, _, _ in Formatter().parse(words[text]) if name}
            assert blanks <= {name for _, name, _, _ in Formatter().parse(text) if name} | {"count"}, text


def test_a_withdrawal_s_receipt_is_in_the_subject_s_language(small: Small) -> None:
    owner = {"organisation": {"contact": "privacy@studio.example"}}
    small.registry = replace(small.registry, settings=replace(small.registry.settings, **owner))
    small.grant("s1", notice=Notice(notice="n-1", language="ja", recipients=("print shop",)))
    small.add("a", "s1")
    (given,) = receipts.receipt(small.registry, "s1")
    assert "| 撤回の方法 | privacy@studio.example にご連絡ください（理由は不要です） |" in given["markdown"]
    plan = withdraw.plan_withdrawal(small.registry, "s1", language="en")
    assert (plan.language, withdrawal.from_json(plan.to_json()).language) == ("en", "en")
    with pytest.raises(UsageError, match="xx"):
        withdraw.withdraw(small.registry, "s1", language="xx")
    said = withdraw.withdraw(small.registry, "s1")["markdown"]
    latin = set(re.findall(r"(?<![\w-])[A-Za-z]{3,}(?![\w-])", re.sub(r"w2w-reg[ \w-]*", "", said)))
    assert latin <= {"UTC", "print", "shop"}, latin
    assert "本人のモデル 1 件" in said
    assert withdraw.withdraw(small.registry, "s1", erase=True, language="en")["markdown"].startswith("# Withdrawal of")


def test_a_receipt_s_words_are_the_report_s() -> None:
    own = json.loads((Path(receipts.__file__).parent / "messages/ja.json").read_text("utf-8"))
    told = json.loads((Path(reports.__file__).parent / "messages/ja.json").read_text("utf-8"))
    vocabulary = {*PURPOSES, ANY_PURPOSE, *map(str, Use), *map(str, Status), *map(str, ConsentEventType)}
    assert vocabulary - own.keys() == set()
    assert {
        word: (own[word], told[word]) for word in own.keys() & told.keys() & vocabulary if own[word] != told[word]
    } == {}
