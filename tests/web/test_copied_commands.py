"""What pages offer to be copied is what the command line takes."""

from __future__ import annotations

import re
import shlex
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import click
import pytest
from fastapi.testclient import TestClient

from tests.services.world import make_world
from tests.web.conftest import COUNT, HOST, TOKEN, NoModel, enter, open_home
from w2w_registry.cli.app import cli
from w2w_registry.consent.records import Scope
from w2w_registry.services.consent import grants
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app

TEMPLATES = Path(__file__).parents[2] / "w2w_registry" / "web" / "templates"
PAGES = (
    "/identities/p0001",
    "/identities/p0007",
    "/compliance",
    "/compliance/subjects/s-55",
    "/compliance/subjects/s-56",
    "/spaces/faces@1",
    "/make?from=p0007",
)


@pytest.fixture
def copied(browser: TestClient, registry: Registry, tmp_path: Path) -> set[str]:
    """The commands on pages about somebody with two versions, one who agreed, and one who has not been asked."""
    again = make_world(COUNT).write(tmp_path / "again", range(1, 2), training=1)
    add(registry, AddRequest(paths=(str(again / "p0001"),)))
    new = make_world(60).write(tmp_path / "new", range(55, 57))
    grants.grant(registry, "s-55", Scope(purposes=("any",)))
    for number in (55, 56):
        add(registry, AddRequest(paths=(str(new / f"p00{number}"),), subjects=(f"s-{number}",)))
    found = [re.findall(r'<div class="command"><code>(.*?)</code>', browser.get(path).text) for path in PAGES]
    return {unescape(one) for commands in found for one in commands if one.startswith("w2w-reg ")}


def test_every_command_on_a_page_is_taken_by_the_command_line(copied: set[str]) -> None:
    for text in copied:
        command: Any = cli
        words = shlex.split(text)[1:]
        while isinstance(command, click.Group):
            below = command.get_command(click.Context(command), words[0])
            assert below is not None, text
            command, words = below, words[1:]
        command.make_parser(click.Context(command)).parse_args(words)
    assert "w2w-reg diff p0001@1 p0001@2" in copied
    assert not any(text.startswith("w2w-reg diff p0007") for text in copied), "there is nothing to compare"
    assert "w2w-reg consent grant s-56 --purpose research" in copied
    assert "w2w-reg report subject s-55 --out report.html" in copied


def test_no_template_puts_a_name_into_a_command_by_itself() -> None:
    """``typed`` does, quoted for the shell."""
    by_hand = re.compile(r"""w2w-reg [^<\n}]*?(['"] ~|\{\{)""")
    assert by_hand.search("{{ parts.command('w2w-reg show ' ~ name) }}")
    for path in TEMPLATES.glob("*.html"):
        assert not by_hand.search(path.read_text()), path.name


def test_an_empty_registry_says_how_to_begin(sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "catalog.db")
    registry = open_home(tmp_path)
    client = enter(create_app(registry, Access(TOKEN, "curator"), frozenset({HOST}), engine=NoModel()))
    for path in ("/", "/who", "/make"):
        assert re.search(r"<code>w2w-reg add loras/( --labels labels\.csv)?</code>", client.get(path).text), path
    assert "<code>w2w-reg space fit faces loras/ --base-model BASE</code>" in client.get("/spaces").text
    assert "<code>w2w-reg consent grant s-17 " in client.get("/compliance").text
    registry.catalog.close()
