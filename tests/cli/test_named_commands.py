"""Every `w2w-reg …` that a message, a page or a document names is a command there is, with options that it takes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from w2w_registry.cli.app import cli

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ("*.md", "docs/**/*.md", "examples/**/*.py", "w2w_registry/web/**/*.html", "w2w_registry/**/*.json")
LEAST = 300
"""So many are named at least, else the search has lost them."""

NAMED = re.compile(r"w2w-reg +([a-z][^\n`;|#]*)")


def _spelt(text: str) -> str:
    return text.replace("[[", "--").replace("]]", "")


def _texts() -> Iterator[tuple[str, str]]:
    """``(where, text)``: each string of the product's code, ``…`` for what is filled in; each line of a document."""
    for path in sorted((ROOT / "w2w_registry").rglob("*.py")):
        parts: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):  # a joined string comes before its parts
            if isinstance(node, ast.JoinedStr):
                parts |= {id(part) for part in node.values}
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                yield f"{path}:{node.lineno}", text
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                yield f"{path}:{node.lineno}", node.value
    for pattern in WRITTEN:
        for path in sorted(ROOT.glob(pattern)):
            for number, line in enumerate(path.read_text("utf-8").replace("\\\n", " ").splitlines(), start=1):
                yield f"{path}:{number}", line


def _wrong(words: list[str]) -> str | None:
    """What of a command line is not there: a command, or an option of it."""
    known = {option for one in cli.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z0-9_-]*", rest[0]):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return f"no command {rest[0]}"
        command = found
        rest.pop(0)
    known |= {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    asked = [re.match(r"--[a-z][a-z0-9-]*", word.lstrip("[(")) for word in rest]
    strange = [match[0] for match in asked if match and match[0] not in known]
    return f"no option {strange[0]}" if strange and not isinstance(command, click.Group) else None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("list --limit 3", None), ("audit query held", None), ("lists", "no command lists"), ("list --bogus", "--bogus")],
)
def test_what_is_not_there_is_found(line: str, wrong: str | None) -> None:
    found = _wrong(line.split())
    assert found is None if wrong is None else wrong in str(found)


def test_every_command_that_is_named_is_there() -> None:
    named = [(where, match[1]) for where, text in _texts() for match in NAMED.finditer(_spelt(text))]
    assert len(named) > LEAST
    wrong = [
        f"{where}: w2w-reg {line.strip()}: {found}"
        for where, line in named
        if (found := _wrong(re.split(r"[\"',)]|\. |\.$|\bis\b", line)[0].split()))
    ]
    assert wrong == []


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """Where the product's code builds a command with ``commands.command``."""
    for top in ("w2w_registry", "cli"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "command" and node.args:
                    yield f"{path}:{node.lineno}", node


def _unfit(call: ast.Call) -> str | None:
    """What of a built command its click command does not take."""
    words, *arguments = call.args
    if not isinstance(words, ast.Constant):
        return "its name is not written out"
    found: click.Command = cli
    for word in str(words.value).split():
        below = found.get_command(click.Context(found), word) if isinstance(found, click.Group) else None
        if below is None:
            return f"no command {word}"
        found = below
    if isinstance(found, click.Group):
        return "a group, not a command"
    arguments = [one for one in arguments if not (isinstance(one, ast.Constant) and one.value == "…")]
    places = [one.nargs for one in found.params if isinstance(one, click.Argument)]
    if -1 not in places and len(arguments) > sum(places):
        return f"takes {sum(places)} arguments"
    flags = {option: one for one in found.params for option in (*one.opts, *one.secondary_opts)}
    for keyword in call.keywords:
        if keyword.arg is None:
            continue  # a dictionary of options: the tests of who makes it
        option = flags.get(f"--{keyword.arg.replace('_', '-')}")
        if not isinstance(option, click.Option):
            return f"no option {keyword.arg}"
        if isinstance(keyword.value, ast.Constant) and (keyword.value.value is True) != option.is_flag:
            return f"{keyword.arg} is {'a flag' if option.is_flag else 'no flag'}"
    return None


@pytest.mark.parametrize(
    ("built", "wrong"),
    [
        ('command("resolve", name, distinct=True, reason="TEXT")', None),
        ('command("label", name)', "a group"),
        ('command("lists")', "no command"),
        ('command("show", a, b, c)', "arguments"),
        ('command("show", a, bogus="x")', "no option"),
        ('command("resolve", a, distinct="x")', "a flag"),
    ],
)
def test_what_does_not_fit_is_found(built: str, wrong: str | None) -> None:
    call = ast.parse(built, mode="eval").body
    assert isinstance(call, ast.Call)
    found = _unfit(call)
    assert found is None if wrong is None else wrong in str(found)


def test_every_command_that_is_built_fits() -> None:
    calls = list(_calls())
    assert len(calls) > 50
    wrong = [f"{where}: {unfit}" for where, call in calls if (unfit := _unfit(call))]
    assert wrong == []
