"""The subject, consent, audit and lineage commands, end to end on SQLite."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.services.small import Small
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.session import Catalog
from w2w_registry.cli.app import cli
from w2w_registry.consent.records import Use
from w2w_registry.errors import RegistryError


class Shell:
    """Runs commands on one home; ``run`` returns what was printed, ``json`` what it parses to."""

    def __init__(self, home: Path, url: str) -> None:
        self.arguments = ["--home", str(home), "--database", url, "--actor", "curator"]

    def by(self, actor: str) -> Shell:
        """The same registry, used by somebody else."""
        other = copy(self)
        other.arguments = [*self.arguments[:-1], actor]
        return other

    def run(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, [*self.arguments, *arguments], standalone_mode=False)
        if isinstance(result.exception, RegistryError):
            assert result.exception.exit_code == code, result.exception
        else:
            assert result.exception is None, result.exception
            assert (result.return_value or 0) == code, result.output
        return result.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))


@pytest.fixture
def small(sqlite_url: str, tmp_path: Path) -> Small:
    return Small(Catalog(sqlite_url, event_hash=event_hash), tmp_path)


@pytest.fixture
def shell(small: Small, sqlite_url: str) -> Shell:
    return Shell(small.registry.settings.home, sqlite_url)


def test_what_two_records_say_alike_is_said_once(small: Small, shell: Shell) -> None:
    small.add("a", "s1")
    for _ in range(2):
        shell.json("consent", "grant", "s1", "--purpose", "research", "--derivatives")
    told = shell.run("consent", "check", "a")
    assert "not allowed  publish\n" in told
    assert told.count("publication is not granted") == 1
    (decision,) = shell.json("consent", "check", "a", "--use", "publish", code=4)["decisions"]
    assert len(decision["codes"]) == len(decision["reasons"]) == 1


def test_a_consent_from_request_to_erasure(small: Small, shell: Shell, tmp_path: Path) -> None:
    shell.run("subject", "add", "s1")
    assert "already there" in shell.run("subject", "add", "s1")
    version = small.add("a", "s1")
    asked = shell.json("consent", "request", "s1", "--purpose", "research", "--derivatives", "--notice", "n-1")
    shell.run("consent", "check", "a", "--use", "edit", code=4)
    shell.json("consent", "grant", "s1", "--request", asked["record_id"])
    shell.run("consent", "check", "a", "--use", "edit")
    shell.run("consent", "check", "a", "--use", "edit", "--purpose", "advertising", code=4)
    edited = small.derive("e", version)
    assert shell.json("subject", "list")[0]["consent"] == "granted"
    shell.json("consent", "narrow", "s1", "--no-derivatives", "--expires", "2099-01-01")
    assert not small.allowed(Use.GENERATE, edited)
    shell.json("consent", "renew", "s1", "--expires", "2100-01-01")
    shell.run("consent", "dispute", "s1")
    shell.run("consent", "resolve", "s1", "--upheld", code=4)  # one person alone does not say so
    shell.by("olga").run("consent", "resolve", "s1", "--upheld")
    receipts = shell.json("consent", "receipt", "s1")
    assert receipts[0]["@type"] == "dpv:ConsentReceipt"
    assert receipts[0]["conforms_to"] == ["https://w3id.org/dpv/schema/dpv-27560#receipt-record"]
    assert shell.run("consent", "receipt", "s1").startswith("# Consent receipt")
    shell.run("consent", "receipt", "s1", "--out", str(tmp_path / "receipts"))
    assert {p.suffix for p in (tmp_path / "receipts").iterdir()} == {".json", ".md"}
    plan = shell.json("consent", "withdraw", "s1", "--dry-run")
    assert [v["ref"] for v in plan["versions"]] == ["a@1", "e@1"]
    assert small.state(version) == "active"
    assert not shell.json("consent", "withdraw", "s1")["already"]
    assert small.state(edited) == "blocked"
    assert shell.json("consent", "withdraw", "s1")["already"]
    shell.run("consent", "withdraw", "s1", "--erase", code=2)
    assert small.state(edited) == "blocked"
    out = tmp_path / "receipt.md"
    shell.run("consent", "withdraw", "s1", "--erase", "--yes", "--receipt", str(out))
    assert small.state(edited) == "erased"
    assert out.read_text("utf-8").startswith("# Withdrawal of s1")
    assert shell.json("subject", "show", "s1")["state"] == "erased"
    assert shell.json("audit", "verify")["ok"]


def test_grants_are_written_as_typed(small: Small, shell: Shell, tmp_path: Path) -> None:
    form = tmp_path / "form"
    form.write_bytes(b"x")
    scope = shell.json(
        *("consent", "grant", "s1", "--purpose", "any", "--publication", "--territory", "eu", "--forbid", "ads"),
        *("--expires", "2099-12-31", "--evidence", str(form), "--guardian", "g1", "--recipient", "lab"),
    )
    assert scope["scope"]["publication"]
    assert scope["scope"]["derivatives"]
    assert scope["scope"]["territory"] == ["EU"]
    assert scope["scope"]["expires_at"] == "2099-12-31T23:59:59.999999Z"
    assert (scope["guardian"], scope["notice"]["recipients"]) == ("g1", ["lab"])
    shell.run("consent", "grant", "s2", code=2)
    shell.run("consent", "grant", "s2", "--purpose", "x", "--use", "fly", code=2)
    shell.run("consent", "grant", "s2", "--purpose", "x", "--expires", "soon", code=2)
    shell.run("consent", "show", "nobody", code=3)
    shell.run("consent", "invalidate", "s1")
    assert shell.json("consent", "show", "s1")["consent"] == "invalidated"


def test_what_was_granted_stands_in_one_column(small: Small, shell: Shell) -> None:
    text = shell.run("consent", "grant", "s1", "--purpose", "research", "--expires", "2099-01-01")
    starts = {line.index(line.split("  ", 1)[1].lstrip()) for line in text.splitlines()[1:]}
    assert len(starts) == 1, text


def test_actions_leave_out_what_is_empty(small: Small, shell: Shell) -> None:
    small.add("a", "s1")
    shell.run("consent", "withdraw", "s1")
    shown = shell.run("audit", "query", "actions", "--action", "consent.withdraw")
    assert "subject=s1" in shown
    assert "record=," not in shown


def test_audit_commands(small: Small, shell: Shell, tmp_path: Path) -> None:
    small.grant("s1")
    small.add("a", "s1")
    kept, log, proof = tmp_path / "kept.txt", tmp_path / "log.jsonl", tmp_path / "proof.json"
    point = shell.json("audit", "checkpoint", "--out", str(kept))
    assert shell.json("audit", "verify", "--key", point["public_key"], "--checkpoint", str(kept))["ok"]
    assert shell.run("audit", "verify").startswith("OK")
    shell.run("audit", "verify", "--key", "abc", code=2)
    shell.run("audit", "verify", "--key", "00" * 32, code=6)
    shell.run("audit", "prove", "2", "--out", str(proof))
    assert json.loads(proof.read_text("utf-8"))["index"] == 1
    assert shell.json("audit", "prove", "1")["size"] == point["size"]
    shell.run("audit", "prove", "999", code=3)
    shell.run("audit", "export", str(log))
    # a head line, the events up to the checkpoint, the event that tells of it, and the checkpoint itself
    assert len(log.read_text("utf-8").splitlines()) == point["size"] + 3
    assert [r["action"] for r in shell.json("audit", "query", "actions", "--action", "consent.")] == ["consent.grant"]
    assert shell.json("audit", "query", "--where", "subject = s1")[0]["version"] == "a@1"
    assert "a@1" in shell.run("audit", "query", "subject", "--subject", "s1")
    shell.run("audit", "query", "riddle", code=2)
    shell.run("audit", "report", "--out", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_lineage_commands(small: Small, shell: Shell) -> None:
    small.grant("s1")
    a = small.add("a", "s1", photo="selfie")
    small.derive("e", a)
    assert shell.run("lineage", "e").startswith("e@1")
    assert shell.json("lineage", "a@1", "--down")["edges"] == [["a@1", "e@1"]]
    assert shell.run("lineage", "e", "--dot").startswith("digraph")
    assert "entity" in json.loads(shell.run("lineage", "e", "--prov"))
    assert shell.json("manifest", "e")["manifest"]["operation"]["kind"] == "edit"
    assert "not possible as things stand\n  photo " in shell.run("replay", "a", "--dry-run")
    assert shell.run("replay", "e", "--dry-run").endswith("nothing is missing\n")
    plan = shell.json("replay", "a", "--dry-run")
    assert not plan["possible"]
    shell.run("replay", "a", code=3)
    shell.run("lineage", "missing", code=3)
    assert shell.json("verify", "a")["ok"]
    path = small.registry.artifacts.path(small_artifact(small, a))
    assert path is not None
    path.unlink()
    assert not shell.json("verify", "a", code=6)["ok"]


def small_artifact(small: Small, version_id: int) -> str:
    from w2w_registry.catalog.models import Version

    with small.registry.catalog.read() as session:
        return session.get_one(Version, version_id).artifact_digest or ""


def test_folders_are_signed_and_verified(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    made = shell.json("sign", str(folder), "--new-key", str(tmp_path / "keys"))
    assert shell.json("verify", str(folder), "--key", made["public_key"])["ok"]
    (folder / "weights.safetensors").write_bytes(b"changed")
    shell.run("verify", str(folder), "--key", made["public_key"], code=6)
    shell.run("verify", str(folder), code=5)


def test_a_policy_of_one_person_says_what_it_means(shell: Shell) -> None:
    def told(*command: str) -> str:
        return CliRunner().invoke(cli, [*shell.arguments, *command]).stderr

    assert told("policy", "set", "second_person=true") == told("policy", "show") == ""
    assert shell.json("policy", "show")["one_person"] is False
    for command in (("policy", "set", "second_person=false"), ("policy", "show")):
        assert "can bring back anybody who refused" in told(*command)
    assert shell.json("policy", "show")["one_person"] is True


def test_a_subject_signs_and_policy_takes_nothing_else(shell: Shell, tmp_path: Path) -> None:
    key, first, second = tmp_path / "me.pem", tmp_path / "one.jws", tmp_path / "two.json"
    made = shell.json("consent", "sign", "s-9", "--purpose", "research", "--key", str(key), "--out", str(first))
    assert made["key_made"]
    assert key.stat().st_mode & 0o077 == 0
    shell.run("consent", "sign", "s-9", "--purpose", "film", "--key", str(key), "--out", str(first), code=7)
    shell.run("policy", "set", "signed_consents=true")
    shell.run("consent", "grant", "s-9", "--purpose", "research", code=2)
    shell.run("consent", "grant", "s-8", "--signed", str(first), code=5)
    shell.run("consent", "grant", "s-9", "--signed", str(first), "--purpose", "film", code=2)
    assert shell.json("consent", "grant", "s-9", "--signed", str(first))["scope"]["purposes"] == ["research"]
    script = Path(__file__).parents[2] / "examples" / "sign_consent.py"
    asked = ["s-9", "--purpose", "film", "--derivatives", "--until", "2031-01-01", "--key", str(key)]
    subprocess.run([sys.executable, str(script), *asked, "--out", str(second)], check=True, capture_output=True)
    again = shell.json("consent", "grant", "s-9", "--signed", str(second))["scope"]
    assert (again["purposes"], again["derivatives"]) == (["film"], True)
    other = tmp_path / "other.jws"
    asked[-1] = str(tmp_path / "stranger.pem")
    subprocess.run([sys.executable, str(script), *asked, "--out", str(other)], check=True, capture_output=True)
    shell.run("consent", "grant", "s-9", "--signed", str(other), code=6)
