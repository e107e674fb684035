"""Everyday commands at a prompt: doctor, stats, config, lists, ratings, backup; how loud; what a key completes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from tests.cli.conftest import Run
from tests.services.identities.folder import make_folder
from tests.services.world import make_world
from w2w_registry.marking.certificates import SELF_MADE, make_credentials
from w2w_registry.records import now
from w2w_registry.services.reports.doctor import examine
from w2w_registry.settings import load_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("x") / "folder", make_world(), others=0)


def test_a_bare_machine_is_told_what_to_do(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 6
    assert "WRONG database" in out
    assert "w2w-reg init" in out


@pytest.mark.parametrize("text", ["", "abc", "00" * 31])
def test_a_key_that_signs_nothing_is_told_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").mkdir()
    key = tmp_path / "keys" / "audit.key"
    key.write_text(text)
    key.chmod(0o600)
    [told] = [one for one in examine(load_settings(tmp_path)) if one.check == "keys"]
    assert (told.state, "audit.key signs the log: it " in told.said) == ("bad", True)
    assert key.read_text() == text


def test_certificates_made_before_the_organisation_was_named_are_told(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    made = make_credentials(SELF_MADE, now())
    (tmp_path / "keys").mkdir()
    for name, text in {"content.pem": made.key + made.chain, "audit.pub": "anybody may read this\n"}.items():
        (tmp_path / "keys" / name).write_text(text)
    (tmp_path / "keys" / "content.pem").chmod(0o600)
    (tmp_path / "keys" / "audit.pub").chmod(0o644)
    assert {one.check for one in examine(settings)} & {"certificates", "keys"} == set()
    named = replace(settings, organisation={"name": "A Studio"})
    [told] = [one for one in examine(named) if one.check == "certificates"]
    assert (told.state, "'A Studio'" in told.said, "content.pem.old" in str(told.cure)) == ("note", True, True)
    ours = make_credentials("A Studio", now())
    (tmp_path / "keys" / "content.pem").write_text(ours.key + ours.chain)
    assert not [one for one in examine(named) if one.check == "certificates"]


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


def test_no_secret_gets_into_a_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from w2w_registry.cli import loudness

    said = ["--database", "postgresql://me:hunter2@db/x", "serve", "--token", "hunter2", "--token=hunter2"]
    monkeypatch.setattr("sys.argv", ["w2w-reg", *said])
    loudness.set_up(quiet=False, verbose=False, log_file=str(tmp_path / "said.log"))
    loudness.close()
    log = (tmp_path / "said.log").read_text()
    assert "postgresql://me:***@db/x serve --token *** --token=***" in log


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_takes_no_more(run: Run, folder: Path) -> None:
    run("add", folder, "--yes")
    command = [sys.executable, "-c", "from w2w_registry.cli.app import main; main()", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (9, "error: cannot write or read the output: No space left on device\n")
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        told = subprocess.run([*command, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        unread = subprocess.run([*command[:-1], "nonsense"], stderr=full, capture_output=False, check=False)
    assert (told.returncode, told.stderr) == (done.returncode, done.stderr)
    assert unread.returncode == 2


def test_a_log_file_is_a_file(run: Run, tmp_path: Path) -> None:
    """A pipe would wait for somebody who reads."""
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "pipe"), (Path("/dev/null"), "device"), (tmp_path, "folder")):
        code, _, err = run("list", "--log-file", path)
        assert (code, err.count("\n")) == (2, 1)
        assert what in err


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_a_home_whose_path_is_no_text(run: Run, tmp_path: Path) -> None:
    home = f"{tmp_path}/caf\udce9"
    assert run("--home", home, "init")[0] == 0
    _, out, _ = run("--home", home, "doctor")
    assert "caf\\udce9/catalog.db" in out


def test_a_seed_that_is_too_large_is_told_the_bound(run: Run) -> None:
    for args in (("sample",), ("train", "x"), ("invert", "x"), ("direction", "fit", "x")):
        code, _, err = run(*args, "--seed", "99999999999999999999")
        assert code == 2
        assert str(2**63 - 1) in err


def test_what_is_too_long_for_a_files_name_is_told(run: Run) -> None:
    run("init")
    for args in (("search",), ("verify",), ("whose",), ("backup",), ("config", "set", "pipelines.x")):
        code, _, err = run(*args, "n" * 300)
        assert code == 5, args
        assert "its name is too long" in err


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
    assert completed(["space", "show"], "base") == ["base-r1", "base-r1@1"]
    run("subject", "add", "s-17")
    run("collection", "add", "summer", "p0003")
    assert completed(["consent", "show"], "s") == ["s-17"]
    assert completed(["train", "--subject"], "s") == ["s-17"]
    assert completed(["collection", "show"], "s") == ["summer"]
    assert completed(["label", "set"], "p0001") == ["p0001"]
    run("label", "set", "*[05]", "beard=1")
    run("label", "set", "*[1-4]", "beard=0")
    assert run("direction", "fit", "beard")[0] == 0
    assert completed(["edit", "p0001", "--edit"], "be") == completed(["generate", "p0001", "--edit"], "be") == ["beard"]
    assert completed(["list", "--columns"], "ide") == ["identity"]
    assert completed(["list", "--columns"], "identity,label.be") == ["identity,label.beard"]
    assert completed(["list", "--columns"], "identity,tag.") == ["identity,tag.collection.summer"]
    assert "doctor" in completed([], "doc")
    monkeypatch.setenv("W2W_HOME", "/nowhere")
    assert completed(["show"], "p") == []


@pytest.mark.parametrize("text", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "＝1+1"])
def test_no_cell_is_a_formula(filled: Run, text: str) -> None:
    assert filled("tag", "set", "p0001", f"note={text}")[0] == 0
    assert filled("label", "set", "p0001", f"job={text}", "depth=-2.5")[0] == 0
    code, out, _ = filled("list", "p0001", "--columns", "identity,tag.note,label.job,label.depth,tags", "--csv")
    (row,) = list(csv.reader(out.splitlines()))[1:]
    assert code == 0
    assert row[1].startswith("'")
    assert row[2].startswith("'")
    assert row[3] == "-2.5"  # a number stays one
    assert row[4].startswith("note=")


def test_a_note_is_shown_and_goes_only_when_asked_to(run: Run, folder: Path) -> None:
    run("add", folder, "--yes")
    assert run("note", "p0001", "shot in May")[:2] == (0, "shot in May\n")
    for _ in range(2):  # reading leaves it
        assert run("note", "p0001")[:2] == (0, "shot in May\n")
    assert run("note", "p0001", "text", "--remove")[0] == 2
    assert run("note", "p0001", "--remove")[:2] == (0, "no note\n")


def test_labels_of_no_identity_are_counted_in_one_line(run: Run, folder: Path, tmp_path: Path) -> None:
    run("add", folder, "--yes")
    table = tmp_path / "labels.csv"
    table.write_text("name;weight\np0001;0,5\n" + "".join(f"x{i};1\n" for i in range(7)), encoding="utf-8-sig")
    code, _, err = run("label", "import", table)
    assert (code, err.splitlines()) == (
        0,
        [
            "warning: 7 rows of the labels match no identity: 'x0', 'x1', 'x2', 'x3', 'x4', … (--json lists all)",
            "1 updated, 0 unchanged, 7 unmatched",
        ],
    )
    assert json.loads(run("show", "p0001", "--json")[1])["labels"]["weight"] == 0.5  # as spreadsheets write it
    run("label", "set", "p0002", "mood==sad", "x=a,b")
    table.write_text(run("label", "export", "p0")[1])
    assert table.read_text() == 'id,mood,weight,x\np0001,,0.5,\np0002,\'=sad,,"a,b"\n'
    assert run("label", "import", table)[2] == "0 updated, 2 unchanged, 0 unmatched\n"


def test_add_says_where_everything_went(run: Run, folder: Path) -> None:
    _, _, err = run("add", folder, "--yes")
    assert "23 added (20 in space base-r1@1, 3 in none), " in err
    assert "fitted base-r1@1: one space for each base model, rank and set of layers" in err
    assert "Fitting a space takes 20 LoRAs of one base model, rank and set of layers." in err
    assert err.splitlines()[-1].startswith("Next: w2w-reg search p")


def test_a_number_that_is_none_is_called_so_in_plain_words(run: Run) -> None:
    assert "'x' is not a whole number" in run("list", "--limit", "x")[2]
    assert "'x' is not a number" in run("rate", "p", "--stars", "x")[2]


def test_without_a_browser_the_address_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from w2w_registry.cli import serve

    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert not serve._open("http://127.0.0.1:1/")
    launcher = tmp_path / "xdg-open"
    launcher.write_text("#!/bin/sh\necho no browser found >&2\nexit 3\n")
    launcher.chmod(0o755)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not serve._open("http://127.0.0.1:1/")


def test_help_is_in_sections_with_examples(run: Run) -> None:
    from w2w_registry.cli.sections import COMMANDS, SECTIONS

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
    assert err.index("resumed at step 49 of 400") < err.index("stopped")
    assert err.count("again to") == 1
    assert "Aborted: stopped at step 50" in err

    def begun(registry: object, request: object, progress: object, watch: object) -> None:
        progress(1, 400)  # type: ignore[operator]
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", begun)
    assert "resumed" not in run("train", tmp_path)[2]
