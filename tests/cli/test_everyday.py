"""Everyday commands at a prompt: doctor, stats, config, lists, ratings, backup; how loud; what a key completes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from tests.cli.conftest import Run
from tests.services.identities.folder import make_folder
from tests.services.world import make_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("x") / "folder", make_world(), others=0)


def test_a_bare_machine_is_told_what_to_do(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 6
    assert "WRONG database" in out
    assert "w2w-reg init" in out


def test_a_day(run: Run, folder: Path, tmp_path: Path) -> None:
    run("add", folder, "--yes")
    code, out, _ = run("doctor", "--json")
    assert (code, {one["state"] for one in json.loads(out)} <= {"ok", "note"}) == (0, True)
    assert json.loads(run("stats", "--json")[1])["versions"] == 23
    assert "by format" in run("stats")[1]
    assert run("rate", "p00*", "--stars", "4")[0] == 0
    assert run("tag", "set", "--where", "tag.rating >= 4", "team=ads")[0] == 0
    assert run("label", "set", "p0000", "p0001", "cleared=1")[0] == 0
    assert run("collection", "add", "summer", "p0003")[0] == 0
    assert json.loads(run("collection", "list", "--json")[1]) == [{"collection": "summer", "identities": 1}]
    code, out, _ = run("list", "P000", "--columns", "identity,tag.team,label.cleared", "--csv")
    assert out.splitlines()[:2] == ["identity,tag.team,label.cleared", "p0000,ads,1.0"]
    assert len(out.splitlines()) == 11
    assert run("list", "--at", "2020-01-01")[1] == "no identities match\n"
    code, out, _ = run("diff", "p0000", "p0001")
    assert (code, "different models" in out) == (0, True)
    assert run("config", "set", "organisation.name", "Acme")[0] == 0
    rows = json.loads(run("config", "show", "--json")[1])
    assert {"key": "organisation.name", "value": "Acme", "source": "registry.toml"} in rows
    assert run("backup", tmp_path / "b.tar")[0] == 0
    assert run("--home", tmp_path / "again", "restore", tmp_path / "b.tar")[0] == 0
    assert len(json.loads(run("--home", tmp_path / "again", "list", "--json")[1])) == 23
    code, out, _ = run("copy-to", f"sqlite:///{tmp_path}/other.db", "--json")
    assert json.loads(out)["rows"]["version"] == 23


def test_how_much_is_said(run: Run, folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "said.log"
    code, _, err = run("add", folder, "--yes", "-q", "--log-file", log)
    assert (code, "23 added" in err, "failed" in err) == (5, False, True)
    assert "note: 23 added" in log.read_text()
    assert "end: exit 5" in log.read_text()
    assert "exit 0 after" in run("-v", "list")[2]
    assert "exit" not in run("list")[2]


def test_usage_errors_are_json_too(run: Run) -> None:
    for args in (("list", "--nope", "--json"), ("--json", "lst"), ("show", "--json")):
        code, _, err = run(*args)
        assert (code, json.loads(err)["error"]["code"]) == (2, "usage")


def test_a_key_completes_what_is_there(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from w2w_registry.cli.app import cli

    run("add", folder, "--yes")
    run("alias", "set", "production", "p0001@1")
    shell = ShellComplete(cli, {}, "w2w-reg", "_W2W_REG_COMPLETE")

    def completed(args: list[str], begun: str) -> list[str]:
        return [item.value for item in shell.get_completions(args, begun)]

    assert completed(["show"], "p001") == [f"p001{i}" for i in range(10)]
    assert completed(["show"], "p0001@") == ["p0001@1", "p0001@production"]
    assert completed(["search", "p0001", "--space"], "base") == ["base-r1", "base-r1@1"]
    assert "doctor" in completed([], "doc")
    monkeypatch.setenv("W2W_HOME", "/nowhere")
    assert completed(["show"], "p") == []


def test_help_is_in_sections_with_examples(run: Run) -> None:
    from w2w_registry.cli.app import COMMANDS
    from w2w_registry.cli.sections import SECTIONS

    out = run("--help")[1]
    assert all(f"\n{title}:\n" in out for title in SECTIONS)
    assert all(out.count(f"\n  {name} ") == 1 for name in COMMANDS)
    assert "w2w-reg list 'acme/*'" in out
    for habit, meant in (("ls", "list"), ("rm", "remove"), ("info", "show"), ("find", "search")):
        assert f"Did you mean '{meant}'" in run(habit)[2]


def test_a_training_that_is_stopped_says_how_to_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from w2w_registry.services.synthesis import train

    def stopped(registry: object, request: object, progress: object, watch: object) -> None:
        watch(0.25)  # type: ignore[operator]
        progress(50, 400)  # type: ignore[operator]
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stopped)
    run("init")
    code, _, err = run("train", tmp_path)
    assert code == 130
    assert "stopped at step 50 of 400, loss 0.2500; run the same command again to resume" in err
