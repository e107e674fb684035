"""The frame of ``python -m benchmarks``: what is run, what is printed and written, and what the exit status says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import frame
from benchmarks.frame import Row

GOOD = '''"""Counts to three."""
from benchmarks.frame import Row

def rows(small):
    for i in range(1, 2 if small else 4):
        yield Row("count", 0.5, 2.0, "slow", {"wrong": 0}, {"to": i})
'''
BAD = '''"""Fails after a row."""
from benchmarks.frame import Row

def rows(small):
    yield Row("early", 1.0, None, "", {}, {})
    raise RuntimeError("measured nothing")
'''


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two benchmarks in place of the real ones; children find them through an environment of their own."""
    folder = tmp_path / "cases"
    folder.mkdir()
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    (folder / "_shared.py").write_text("")
    monkeypatch.setattr(frame, "CASES", folder)

    def in_this_process(name: str, *, small: bool) -> tuple[list[Row], int]:
        space: dict[str, object] = {}
        exec((folder / f"{name}.py").read_text(), space)
        found: list[Row] = []
        try:
            found.extend(space["rows"](small))  # type: ignore[operator]
        except RuntimeError:
            return [Row("early", 1.0, None, "", {}, {})], 1
        return found, 0

    monkeypatch.setattr(program, "_in_a_process", in_this_process)
    return folder


def test_json_has_the_stated_keys(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--only", "good", "--small", "--json", str(tmp_path / "out.json")]) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row == {
        "name": "count", "ours": 0.5, "peer": 2.0, "peer_name": "slow", "ratio": 4.0,
        "quality": {"wrong": 0}, "size": {"to": 1},
    }  # fmt: skip
    assert "| count | 500 ms | 2 s (slow) | 4x | wrong 0 | to 1 |" in capsys.readouterr().out


def test_a_failed_benchmark_keeps_the_other_rows_and_says_so(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--json", str(tmp_path / "out.json")]) == 1
    assert [row["name"] for row in json.loads((tmp_path / "out.json").read_text())] == ["early", *["count"] * 3]
    assert "failed: bad" in capsys.readouterr().err


def test_an_unknown_name_is_a_usage_error_that_lists_the_known_ones(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        program.main(["--only", "godo"])
    assert stopped.value.code == 2
    assert "no benchmark named godo; there are bad, good" in capsys.readouterr().err


def test_every_benchmark_says_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list"]) == 0
    assert "search" in frame.names()
    for name in frame.names():
        assert frame.first_line(name), name


def test_a_child_process_hands_its_rows_back(capfd: pytest.CaptureFixture[str]) -> None:
    """The real way, on the smallest real thing: a benchmark that is not there fails and the status says so."""
    rows, status = program._in_a_process("nothing_of_this_name", small=True)
    assert rows == []
    assert status != 0


def test_ratio_is_above_one_when_ours_is_better() -> None:
    assert Row("time", 1.0, 3.0, "x").ratio == 3.0
    assert Row("rate", 3.0, 1.0, "x", more_is_better=True).ratio == 3.0
    assert Row("alone", 3.0, None, "").ratio is None


def test_targets_that_are_missed_are_named() -> None:
    asked = {"asked": frame.held({"≥ 12x": True, "recall@10 ≥ 0.99": False}), "holds": "NO", "recall": 0.98}
    assert frame.missed(Row("search", 1.0, 9.0, "x", asked)) == "recall@10 ≥ 0.99: NO, holds: NO"
    assert frame.missed(Row("search", 1.0, 9.0, "x", {"asked": frame.held({"≥ 4x": True}), "holds": "yes"})) == ""


@pytest.mark.parametrize(("holds", "words", "status"), [("yes", [], 0), ("NO", [], 1), ("NO", ["--small"], 0)])
def test_a_target_that_is_missed_is_a_failure_at_full_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], holds: str, words: list[str], status: int
) -> None:
    found = [Row("gallery: first page", 0.2, None, "", {"holds": holds})]
    monkeypatch.setattr(program, "_in_a_process", lambda name, small: (found, 0))
    assert program.main(["--only", "gallery", *words]) == status
    out, err = capsys.readouterr()
    assert "gallery: first page" in out
    assert ("not met: gallery: first page: holds: NO" in err) == (holds == "NO")
