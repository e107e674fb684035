"""Every way to tamper with a log is found, with the first bad sequence; the stand-alone verifier agrees."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_registry.audit import export
from w2w_registry.audit.chain import GENESIS, event_hash
from w2w_registry.audit.checkpoint import public_key, sign
from w2w_registry.audit.checks import (
    ChainCheck,
    Finding,
    FindingCode,
    LoggedEvent,
    RowClaim,
    check_rows,
    leaf_of,
)
from w2w_registry.audit.merkle import root

KEY = bytes(range(32))
PUBLIC = public_key(KEY)
ORIGIN = "log"
VERIFIER = Path(__file__).parents[2] / "w2w_registry" / "audit" / "verifier.py"


def make_log(count: int) -> list[LoggedEvent]:
    events: list[LoggedEvent] = []
    head = GENESIS
    for seq in range(1, count + 1):
        body = {"seq": seq, "at": f"t{seq}", "actor": "curator", "action": "version.add", "data": {"id": seq * 7}}
        events.append(LoggedEvent(seq, body, head, event_hash(head, body)))
        head = events[-1].hash
    return events


def note(events: list[LoggedEvent], size: int) -> str:
    tree = root(leaf_of(e.hash) for e in events[:size])
    return sign(ORIGIN, size, tree, datetime(2026, 3, 1, tzinfo=UTC), KEY)


LOG = make_log(20)
NOTES = [note(LOG, 8), note(LOG, 20)]


def check(events: list[LoggedEvent], notes: list[str] = NOTES) -> list[Finding]:
    return ChainCheck(notes, PUBLIC).run(events)


def rechain(events: list[LoggedEvent]) -> list[LoggedEvent]:
    """What a forger who knows the format does: renumber and hash everything again."""
    out: list[LoggedEvent] = []
    head = GENESIS
    for seq, event in enumerate(events, 1):
        body = {**event.body, "seq": seq}
        out.append(LoggedEvent(seq, body, head, event_hash(head, body)))
        head = out[-1].hash
    return out


def test_an_honest_log_has_no_findings() -> None:
    run = ChainCheck(NOTES, PUBLIC)
    assert run.run(LOG) == []
    assert (run.size, run.head) == (20, LOG[-1].hash)
    assert check([], []) == []


EDITS: dict[str, Callable[[LoggedEvent], LoggedEvent]] = {
    "actor": lambda e: replace(e, body={**e.body, "actor": "other"}),
    "data": lambda e: replace(e, body={**e.body, "data": {"id": 1}}),
    "extra": lambda e: replace(e, body={**e.body, "extra": None}),
    "body seq": lambda e: replace(e, body={**e.body, "seq": 999}),
    "prev": lambda e: replace(e, prev_hash="f" * 64),
    "hash": lambda e: replace(e, hash="f" * 64),
    "not hex": lambda e: replace(e, hash="zz"),
    "seq": lambda e: replace(e, seq=e.seq + 500),
    "rehashed": lambda e: (lambda b: replace(e, body=b, hash=event_hash(e.prev_hash, b)))({**e.body, "actor": "x"}),
}


@pytest.mark.parametrize("edit", sorted(EDITS))
@pytest.mark.parametrize("position", [0, 6, 19])
def test_an_edited_event_is_found_where_it_is(edit: str, position: int) -> None:
    events = [*LOG]
    events[position] = EDITS[edit](events[position])
    findings = check(events)
    assert findings
    first = min(f.seq for f in findings if f.seq is not None)
    assert first in {position + 1, position + 2}


@given(st.integers(0, 19))
def test_a_deleted_event_is_found(position: int) -> None:
    findings = check(LOG[:position] + LOG[position + 1 :])
    assert findings[0].seq == position + 1
    assert findings[0].code is (FindingCode.EVENT_MISSING if position < 19 else FindingCode.TAIL_CUT)


@given(st.integers(0, 19), st.integers(0, 19))
def test_swapped_events_are_found(a: int, b: int) -> None:
    if a == b:
        return
    events = [*LOG]
    events[a], events[b] = events[b], events[a]
    findings = check(events)
    assert findings[0].seq is not None
    assert findings[0].seq <= min(a, b) + 1


@given(st.integers(0, 20))
def test_an_inserted_event_is_found(position: int) -> None:
    head = LOG[position - 1].hash if position else GENESIS
    body = {"seq": position + 1, "actor": "forger"}
    forged = LoggedEvent(position + 1, body, head, event_hash(head, body))
    findings = check([*LOG[:position], forged, *LOG[position:]])
    if position < 20:
        assert findings[0].seq == position + 1
    else:
        # appended with a good hash: it is the next event, which is how anybody writes to the log
        assert findings == []


@given(st.integers(0, 19), st.sampled_from(["drop", "edit", "insert"]))
def test_a_log_hashed_again_is_found_by_its_checkpoints(position: int, how: str) -> None:
    events = [*LOG]
    if how == "drop":
        del events[position]
    elif how == "edit":
        events[position] = replace(events[position], body={**events[position].body, "actor": "x"})
    else:
        events.insert(position, LoggedEvent(0, {"actor": "forger"}, "", ""))
    forged = rechain(events)
    assert check(forged, []) == []
    findings = check(forged)
    assert {f.code for f in findings} <= {FindingCode.HISTORY_REWRITTEN, FindingCode.TAIL_CUT}
    assert findings[0].seq == (8 if position < 8 else 20)


@given(st.integers(0, 19))
def test_a_cut_tail_is_found_against_the_last_checkpoint(kept: int) -> None:
    findings = check(LOG[:kept])
    assert findings[0].code is FindingCode.TAIL_CUT
    assert findings[0].seq == kept + 1


def test_forged_checkpoints_are_found() -> None:
    other = sign(ORIGIN, 8, b"\0" * 32, datetime(2026, 3, 1, tzinfo=UTC), bytes(32))
    assert [f.code for f in check(LOG, [other])] == [FindingCode.CHECKPOINT_FORGED]
    assert [f.code for f in ChainCheck(NOTES).run(LOG)] == [FindingCode.CHECKPOINT_FORGED] * 2


def test_rows_against_claims() -> None:
    last = [RowClaim("version", 2, "b", 2), RowClaim("version", 1, "a2", 3), RowClaim("version", 3, None, 5)]
    claims = {(claim.table, claim.key): claim for claim in last}
    assert list(check_rows(claims, [("version", 1, "a2"), ("version", 2, "b")])) == []
    found = {
        (f.code, f.seq) for f in check_rows(claims, [("version", 1, "a"), ("version", 3, "c"), ("version", 4, "d")])
    }
    assert found == {
        (FindingCode.ROW_EDITED, 3),
        (FindingCode.ROW_MISSING, 2),
        (FindingCode.ROW_UNEXPLAINED, 5),
        (FindingCode.ROW_UNEXPLAINED, None),
    }


# -- the stand-alone verifier ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def verifier() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_audit", VERIFIER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported(events: list[LoggedEvent], notes: list[str] = NOTES) -> io.StringIO:
    return io.StringIO("\n".join(export.lines(ORIGIN, PUBLIC, events, notes)) + "\n")


def test_the_verifier_imports_nothing_of_ours() -> None:
    text = VERIFIER.read_text("utf-8")
    assert "w2w_registry" not in text
    modules = {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.lstrip().startswith(("import ", "from "))
    }
    assert modules - set(sys.stdlib_module_names) == {"cryptography"}


def test_the_example_is_the_same_file() -> None:
    assert (Path(__file__).parents[2] / "examples" / "verify_audit.py").read_bytes() == VERIFIER.read_bytes()


@pytest.mark.parametrize("content", [None, b"\xff", b"{", b"[]", b'{"seq": 1}', b'"x"'])
@pytest.mark.parametrize("option", [None, "--proof", "--checkpoint"])
def test_what_is_no_log_is_said_in_one_line(
    verifier: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, option: str | None
) -> None:
    path, log = tmp_path / "given", tmp_path / "log.jsonl"
    log.write_text(exported(LOG).read(), "utf-8")
    if content is not None:
        path.write_bytes(content)
    arguments = [str(path)] if option is None else [str(log), option, str(path)]
    assert verifier.main([*arguments, "--key", PUBLIC.hex()]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_the_verifier_accepts_an_honest_export(verifier: ModuleType) -> None:
    assert verifier.check_log(exported(LOG), PUBLIC.hex()) == (20, 2, [])
    assert verifier.check_log(exported([], []), PUBLIC.hex()) == (0, 0, [])


@given(st.integers(0, 19), st.sampled_from(["drop", "swap", "cut", *sorted(set(EDITS) - {"seq"})]))
def test_the_verifier_finds_what_we_find(position: int, how: str) -> None:
    spec = importlib.util.spec_from_file_location("verify_audit", VERIFIER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    events = [*LOG]
    if how == "drop":
        del events[position]
    elif how == "cut":
        events = events[:position]
    elif how == "swap":
        other = (position + 1) % 20
        events[position], events[other] = events[other], events[position]
    else:
        events[position] = EDITS[how](events[position])
    ours = check(events)
    _, _, theirs = module.check_log(exported(events), PUBLIC.hex())
    assert ours
    assert theirs


def test_a_kept_checkpoint_finds_a_cut_export(verifier: ModuleType) -> None:
    _, _, findings = verifier.check_log(exported(LOG[:10], [NOTES[0]]), PUBLIC.hex(), kept=[NOTES[1]])
    assert findings[0][0] == 11


def test_proofs_hold_and_broken_ones_do_not(verifier: ModuleType) -> None:
    for seq in (1, 5, 8):
        proof = json.loads(json.dumps(export.proof([leaf_of(e.hash) for e in LOG[:8]], LOG[seq - 1], NOTES[0])))
        assert verifier.check_proof(proof, PUBLIC.hex()) == []
        assert verifier.check_proof({**proof, "index": proof["index"] + 1}, PUBLIC.hex())
        assert verifier.check_proof({**proof, "path": proof["path"][1:]}, PUBLIC.hex())
        assert verifier.check_proof({**proof, "root": "00" * 32}, PUBLIC.hex())
        assert verifier.check_proof({**proof, "checkpoint": NOTES[1]}, PUBLIC.hex())
        assert verifier.check_proof({**proof, "checkpoint": None}, PUBLIC.hex())
        assert verifier.check_proof(proof)


def test_the_verifier_as_a_command(verifier: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, proof = tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "proof.json"
    good.write_text(exported(LOG).read(), "utf-8")
    bad.write_text(exported(LOG).read().replace('"t7"', '"t8"'), "utf-8")
    proof.write_text(json.dumps(export.proof([leaf_of(e.hash) for e in LOG], LOG[3], NOTES[1])), "utf-8")
    assert verifier.main([str(good), "--key", PUBLIC.hex(), "--proof", str(proof)]) == 0
    assert capsys.readouterr().out.endswith("OK\n")
    assert verifier.main([str(bad), "--key", PUBLIC.hex()]) == 1
    assert "7: event 7 was edited" in capsys.readouterr().out
    garbage = tmp_path / "garbage.jsonl"
    garbage.write_text(good.read_text("utf-8").replace('{"body"', "{body", 1), "utf-8")
    assert verifier.main([str(garbage)]) == 1


def bodies(*said: tuple[str, str, dict[str, object], str | None]) -> list[LoggedEvent]:
    """A chained log of (time, action, payload, policy)."""
    out: list[LoggedEvent] = []
    prev = GENESIS
    for seq, (at, action, payload, policy) in enumerate(said, 1):
        body = {"seq": seq, "at": at, "actor": "a", "action": action, "objects": {}, "changes": [], "payload": payload}
        if policy is not None:
            body["policy"] = policy
        digest = event_hash(prev, body)
        out.append(LoggedEvent(seq, body, prev, digest))
        prev = digest
    return out


def test_an_outsider_finds_what_the_story_gives_away(verifier: ModuleType) -> None:
    """Time that runs back, a policy never put in force, a dropped checkpoint; a clock set back is noted."""
    first, second = "2026-05-01T00:00:00.000000Z", "2026-05-02T00:00:00.000000Z"
    honest = bodies(
        (first, "policy.set", {"digest": "p"}, None),
        (second, "clock.back", {"seconds": 86400}, "p"),
        (second, "version.add", {}, "p"),
        (second, "clock.off", {"seconds": 86400}, "p"),
        (second, "policy.ignored", {}, "p"),
    )
    notices: list[tuple[int, str]] = []
    assert verifier.check_log(exported(honest, []), PUBLIC.hex(), notices=notices)[2] == []
    assert [seq for seq, _ in notices] == [2, 4, 5]
    for bad, seq, word in (
        (bodies((second, "a", {}, None), (first, "b", {}, None)), 2, "time runs back"),
        (bodies(*((at, "a", {}, None) for at in (first, second, first, first, first))), 3, "time runs back"),
        (bodies((first, "policy.set", {"digest": "p"}, None), (first, "b", {}, "q")), 2, "policy"),
        (bodies((first, "a", {}, None), (first, "audit.checkpoint", {"note": "ab" * 32}, None)), 2, "is gone"),
    ):
        (found,) = verifier.check_log(exported(bad, []), PUBLIC.hex())[2]
        assert found[0] == seq
        assert word in found[1]


def test_the_example_is_the_verifier_that_is_installed() -> None:
    """One file, so that whoever copies it from the examples has what ``verify-audit`` runs."""
    assert (VERIFIER.parents[2] / "examples" / "verify_audit.py").read_bytes() == VERIFIER.read_bytes()
