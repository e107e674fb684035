"""The ready questions and the report, on both databases."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.services.small import ANY, Small, digest
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Notice, Use
from w2w_registry.errors import BadFile, NotFound, UsageError, WhereError
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.audit import queries
from w2w_registry.services.audit.queries import Filters
from w2w_registry.services.consent import amendments, withdraw
from w2w_registry.services.identities import assigning


@pytest.fixture
def small(catalog: Catalog, tmp_path: Path) -> Small:
    made = Small(catalog, tmp_path)
    made.grant("s1")
    made.grant("s2", replace(ANY, expires_at=now() + timedelta(days=5)))
    a, b = made.add("a", "s1", photo="selfie"), made.add("b", "s2", photo="b")
    edited = made.derive("e", a)
    made.derive("m", edited, b, how=Use.MIX)
    made.release(b, "acme/b")
    made.release(edited, "acme/e")
    made.member(a)
    return made


def ask(small: Small, question: str, **filters: object) -> list[dict[str, object]]:
    return queries.ask(small.registry, question, Filters(**filters))  # type: ignore[arg-type]


def test_everything_about_a_subject(small: Small) -> None:
    rows = ask(small, "subject", subject="s1")
    kinds = [r["what"] for r in rows]
    versions = {r["id"]: r["details"] for r in rows if r["what"] == "version"}
    assert versions == {
        "a@1": "depicts the subject",
        "e@1": "made from a model of the subject",
        "m@1": "made from a model of the subject",
    }
    assert [r["id"] for r in rows if r["what"] == "release"] == ["acme/e"]
    assert [r["id"] for r in rows if r["what"] == "space"] == ["faces@1"]
    assert {"subject.add", "consent.grant"} <= {r["state"] for r in rows if r["what"] == "event"}
    assert kinds[0] == "subject"
    withdraw.withdraw(small.registry, "s1")
    assert [r["state"] for r in ask(small, "subject", subject="s1") if r["what"] == "withdrawal"] == ["finished"]
    with pytest.raises(NotFound):
        ask(small, "subject", subject="nobody")
    with pytest.raises(UsageError):
        ask(small, "subject")


def test_a_subject_is_told_what_they_agreed_to_before_and_by_what_documents(small: Small, tmp_path: Path) -> None:
    form, contract = tmp_path / "form.pdf", tmp_path / "contract.pdf"
    form.write_bytes(b"signed form")
    contract.write_bytes(b"contract")
    first = small.grant("s2", evidence=form, keep_evidence=True, notice=Notice(recipients=("acme",)))
    first_id, less = first["record_id"], {"forbidden": ("advertising",)}
    second = amendments.narrow(small.registry, "s2", lambda s: replace(s, **less), record_id=first_id)
    shown = small.add("c", made=OperationKind.IMPORT)
    other = replace(small.registry, settings=replace(small.registry.settings, actor="another"))
    assigning.assign(other, "s2", ["c@1"], evidence=contract)
    with small.registry.catalog.write("tester") as uow:
        uow.session.get_one(Version, shown).preview_digest = digest("preview")
        uow.event("preview.draw", {"version": shown})
    rows = ask(small, "subject", subject="s2")
    told = {(r["what"], r["id"]): r["state"] for r in rows}
    [details] = [str(r["details"]) for r in rows if r["id"] == second["record_id"] and r["what"] == "consent"]
    assert "not for advertising" in details
    assert told["consent", first_id] == "replaced by a later one"
    assert told["consent", second["record_id"]] == "given"
    assert told["evidence", digest("signed form")] == "kept"
    assert told["evidence", digest("contract")] == "digest"
    assert told["picture", digest("preview")] == "kept to show the model by"
    assert [r["state"] for r in rows if r["what"] == "recipient"] == ["given"]


def test_everything_from_a_photo(small: Small, tmp_path: Path) -> None:
    rows = ask(small, "photo", photo=digest("selfie"))
    assert [(r["version"], r["steps"], r["made_by"]) for r in rows] == [
        ("a@1", 0, "import"),
        ("e@1", 1, "edit"),
        ("m@1", 2, "mix"),
    ]
    (tmp_path / "selfie.png").write_bytes(b"selfie")
    assert ask(small, "photo", photo=str(tmp_path / "selfie.png")) == rows
    assert ask(small, "photo", photo="0" * 64) == []
    with pytest.raises(BadFile):
        ask(small, "photo", photo=str(tmp_path / "missing.png"))


def test_published_without_consent(small: Small) -> None:
    assert ask(small, "unconsented") == []
    from w2w_registry.services.consent import amendments

    amendments.narrow(small.registry, "s1", lambda scope: replace(scope, publication=False))
    [row] = ask(small, "unconsented")
    assert (row["repo"], row["version"]) == ("acme/e", "e@1")
    assert row["codes"] == ["publication-not-granted"]
    assert "publication is not granted" in row["reasons"][0]


def test_expiring(small: Small) -> None:
    [row] = ask(small, "expiring", days=7)
    assert (row["subject"], row["days"], row["versions"], row["releases"]) == ("s2", 4, 2, 1)
    assert ask(small, "expiring", days=3) == []


def test_who_did_what(small: Small) -> None:
    assert {r["action"] for r in ask(small, "actions", action="consent.")} == {"consent.grant"}
    assert len(ask(small, "actions", limit=3)) == 3
    [tagged] = ask(small, "actions", action="consent.grant", limit=1)
    assert set(tagged) == {"seq", "at", "actor", "action", "objects", "payload"}  # as the API's events are
    assert tagged["payload"]["digest"]
    assert ask(small, "actions", actor="nobody") == []
    assert ask(small, "actions", since=now() + timedelta(days=1)) == []
    assert ask(small, "actions", until=now() - timedelta(days=1)) == []


def test_spaces_with_whom(small: Small) -> None:
    assert ask(small, "spaces") == [{"space": "faces@1", "subject": "s1", "members": 1, "consent": "granted"}]
    assert ask(small, "spaces", subject="s2") == []


def test_unexplained_and_mismatched(small: Small) -> None:
    small.add("stranger")
    small.add("sampled", made=OperationKind.SAMPLE)
    small.add("shoe", kind=Kind.PRODUCT, photo="shoe")
    found = {str(r["version"]): r["why"] for r in ask(small, "unexplained")}
    assert found == {"stranger@1": ["no input is recorded", "depicts a person, names no subject"]}
    small.add("another")
    assert len(ask(small, "unexplained")) == 2
    assert len(ask(small, "unexplained", limit=1)) == 1
    assert ask(small, "mismatched") == []
    path = small.registry.artifacts.path(digest("lora 1"))
    assert path is not None
    path.unlink()
    assert [r["version"] for r in ask(small, "mismatched")] == ["a@1"]
    assert ask(small, "mismatched", limit=0) == []


def test_withdrawals_under_way(small: Small) -> None:
    assert ask(small, "withdrawals") == []
    withdraw.withdraw(small.registry, "s1")
    assert [(r["what"], r["about"], r["why"]) for r in ask(small, "withdrawals")] == [("takedown", "acme/e", None)]


def test_free_questions(small: Small) -> None:
    rows = ask(small, "versions", where="subject = s1")
    assert [(r["version"], r["made_by"], r["consent"]) for r in rows] == [("a@1", "import", "granted")]
    with pytest.raises(WhereError):
        ask(small, "versions", where="subject =")
    with pytest.raises(UsageError):
        ask(small, "riddle")


@pytest.mark.parametrize("question", sorted(queries.QUESTIONS))
def test_a_question_refuses_the_filters_it_does_not_use(small: Small, question: str) -> None:
    given = {
        "subject": "s1",
        "photo": "0" * 64,
        "days": 9,
        "since": now(),
        "until": now(),
        "actor": "a",
        "where": "x > 1",
    }
    assert {*given, "action"} | {"limit"} == {one.name for one in fields(Filters)}
    for name in given.keys() - queries.QUESTIONS[question].takes:
        with pytest.raises(UsageError, match=f"does not use .*{'by' if name == 'actor' else name}"):
            ask(small, question, **{name: given[name]})
    assert Filters(**given).only(question).given() <= queries.QUESTIONS[question].takes  # type: ignore[arg-type]


def test_every_key_of_every_answer_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reports.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, question in queries.QUESTIONS.items():
        assert [key for key in question.columns if f"`{key}`" not in rows[name]] == [], name
