"""What all commands share: the tree of files, early readers, hostile text, mistakes in the command itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.cli.walk import commands
from w2w_registry.cli import output
from w2w_registry.cli.app import cli, main
from w2w_registry.cli.folder_group import HABITS, HABITS_WITHIN, FolderGroup
from w2w_registry.settings import load_settings

CLI = Path(__file__).parents[2] / "cli"
FRAME = {"__init__", "app", "frame", "groups", "options", "output", "messages", "reference"}


def walk(group: click.Group) -> Iterator[click.Command]:
    """Every command under ``group``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield command
        if isinstance(command, click.Group):
            yield from walk(command)


def command_files() -> list[Path]:
    return [p for p in sorted(CLI.rglob("*.py")) if p.parent != CLI or p.stem not in FRAME]


def test_every_command_file_is_in_the_tree() -> None:
    reached = {id(command) for command in walk(cli)}
    for path in command_files():
        parts = [part for part in path.relative_to(CLI).with_suffix("").parts if part != "__init__"]
        for name, value in vars(importlib.import_module(".".join(["w2w_registry.cli", *parts]))).items():
            if isinstance(value, click.Command):
                assert id(value) in reached, f"{path}: {name} is in no group"


def test_habits_lead_to_commands() -> None:
    everywhere = {command.name for command in walk(cli)}
    assert set(HABITS.values()) <= everywhere
    assert not set(HABITS) & set(cli.list_commands(click.Context(cli)))
    assert {name for names in HABITS_WITHIN.values() for name in names} <= everywhere


def test_every_group_says_what_may_be_meant() -> None:
    assert {type(one) for one in walk(cli) if isinstance(one, click.Group)} == {FolderGroup}


def test_every_command_is_a_file_of_its_own() -> None:
    homes = Counter(inspect.unwrap(command.callback).__module__ for _, command in commands() if command.callback)
    assert {home: count for home, count in homes.items() if count > 1} == {}


@pytest.mark.parametrize("path", command_files(), ids=lambda p: str(p.relative_to(CLI)))
def test_commands_print_through_the_sink(path: Path) -> None:
    """What a person reads is cleaned in ``output``, so nothing may go round it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("click.echo", "click.secho", "print", "sys.stdout.write"), path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *[("ls", "list"), ("rm", "remove"), ("info", "show"), ("find", "search"), ("serch", "search")],
        *[("shwo", "show"), ("tag add", "set"), ("label remove", "unset"), ("alias ste", "set"), ("config ls", "show")],
        *[("consent add", "grant"), ("consent revoke", "withdraw"), ("db migrate", "upgrade"), ("space new", "fit")],
    ],
)
def test_did_you_mean(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(typed.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"Did you mean '{meant}'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["--json", "list", "--limt", "2"], ["show", "--json"], ["list", "--limt", "2", "--json"], ["ls", "--json"]]
)
def test_usage_errors_as_json(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    error = json.loads(capsys.readouterr().err)["error"]
    assert (stop.value.code, error["code"], error["exit_code"]) == (2, "usage", 2)
    assert "--help" in error["message"]


def test_options_of_all_commands_go_before_or_after_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(tmp_path / "home"))
    for args in (["--json", *home, "init"], ["init", *home, "--json"], [*home, "db", "current", "--json"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 0
        assert json.loads(capsys.readouterr().out)["schema"]


def test_an_early_reader_is_no_failure(tmp_path: Path) -> None:
    """`… | head -1` ends with the command's own exit code and nothing on stderr."""
    script = (
        "import sys\n"
        "from w2w_registry.cli.frame import Frame\n"
        "from w2w_registry.cli.output import emit, table\n"
        "rows = [{'n': n, 'text': 'x' * 200} for n in range(5000)]\n"
        "emit(Frame(), rows, lambda: table(rows, ['n', 'text']))\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    for code in (0, 6):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.stderr.close()
        assert (process.wait(), said) == (code, b"")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_command_that_is_stopped_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    script = (
        "import os, sys, time\n"
        "def hang(number):\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "os.fsync = hang\n"
        "from w2w_registry.cli.app import main\n"
        "main(['--home', sys.argv[1], 'init'])\n"
    )
    home = tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(home)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert [p for p in home.iterdir() if p.name.startswith(".")], "nothing was being written: the test tests nothing"
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert "Traceback" not in said
    assert list(home.iterdir()) == []


HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp.exe\udcff\r\nline"


def test_hostile_text_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([{"tag": HOSTILE, "tags": {HOSTILE: HOSTILE}, "many": [HOSTILE]}], ["tag", "tags", "many"])
    output.pairs([("actor", HOSTILE)])
    output.say(HOSTILE)
    output.note(HOSTILE)
    output.warn(HOSTILE)
    output.report("usage", HOSTILE, 2, {"x": HOSTILE}, as_json=False)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not any(c in text for c in "\x1b\x07\x9b\u202e\r\udcff")
        assert "\\x1b[31mred" in text
    assert (out.count("\n"), err.count("\n")) == (4, 3)


def test_cells_are_cut_only_where_a_terminal_has_no_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long, reason = "n" * 200, "why " * 60
    rows = [{"name": long, "reason": reason}, {"name": "n", "reason": "none"}]
    output.table(rows, ["name", "reason"])
    _, first, second = capsys.readouterr().out.splitlines()
    assert first == f"{long}  {reason.rstrip()}"  # in a file or another program everything
    assert len(second) < 100  # but one long name does not push the other rows' columns away
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    output.table(rows, ["name", "reason"])
    _, first, _ = capsys.readouterr().out.splitlines()
    assert "…" in first.partition(" ")[0]
    assert first.endswith(reason.rstrip())
    monkeypatch.setenv("COLUMNS", "1000")
    output.table(rows, ["name", "reason"])
    assert "…" not in capsys.readouterr().out


def test_json_is_clean_and_true(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"tag": HOSTILE})
    out = capsys.readouterr().out
    assert not any(c in out for c in "\x1b\x07\x9b\u202e\r\udcff")
    assert json.loads(out) == {"tag": HOSTILE}


def test_text_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_text("# Receipt\n\ta\x1b[2J\n\n")
    assert capsys.readouterr().out == "# Receipt\n\ta\\x1b[2J\n"


def test_who_acts_when_nothing_says(tmp_path: Path) -> None:
    """Cron sets no USER: the account's own name stands in the log, not "unknown"."""
    import pwd

    assert load_settings(tmp_path, env={}).actor == pwd.getpwuid(os.getuid()).pw_name
    assert load_settings(tmp_path, env={"W2W_ACTOR": "ada"}).actor == "ada"


def test_who_acts_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert load_settings(tmp_path, env={}).actor == f"uid {os.getuid()}"


def test_options_are_spelt_as_typed() -> None:
    from w2w_registry.errors import UsageError
    from w2w_registry.messages import message

    error = UsageError(reason="photos of one identity need [[name]]", hint="or [[no-register]]")
    assert message(error) == "photos of one identity need --name; or --no-register"
    assert str(error) == "photos of one identity need name=; or no_register="


def test_former_names_still_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Hidden: a script of the first release goes on, and nobody learns the old name."""
    with pytest.raises(SystemExit) as stop:
        main(["guess", "fit", "--help"])
    assert stop.value.code == 0
    assert "initializer" in capsys.readouterr().out
    assert "guess" not in cli.list_commands(click.Context(cli))


def test_a_chance_beyond_a_line_never_reads_as_if_it_were_within() -> None:
    """0.0102 is "likely", so it is not told as 0.01, up to which a match is the same."""
    shown = {0.0102: "0.011", 0.01: "0.01", 0.2: "0.2", 0.2001: "0.21", 1.0: "1", 0.00053: "0.00053", 3e-7: "< 1e-06"}
    assert {value: output.chance(value) for value in shown} == shown
    assert output.chance(None) is None
