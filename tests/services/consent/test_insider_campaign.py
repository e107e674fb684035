"""Nobody who refused gets out by any route, name, kind, order or space, judged by what left and what it draws.

``make test`` runs a sample; ``python -m tests.services.consent.insider`` the campaign. What a second training or a
foreign LoRA gets past the door is bounded by its rates (docs/door.md) and listed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from examples.miniworld.unpack import load_loras
from tests.services.consent.insider.eyes import Eyes
from tests.services.consent.insider.play import MOVES, RETRAINED
from tests.services.consent.insider.repertoire import EXEMPT, covered
from tests.services.consent.insider.world import LATE, PHOTO, REFUSED, Scale, build, late, playing, remembered, write
from w2w_registry.cli.app import cli

WHO = [*REFUSED, *LATE]
SMALL = Scale(people=60, known=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("insider")
    with remembered():
        build(folder, load_loras(), SMALL)
        yield folder


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    rows = [*WHO, *(row for row in range(SMALL.known) if row not in WHO)]
    return Eyes.opened(load_loras(), rows)


def test_the_eyes_see_whoever_refused(eyes: Eyes, tmp_path: Path) -> None:
    """A judge who saw nobody would find nobody out."""
    loras = load_loras()
    for row in (3, 14, 30):
        assert eyes.shows_file(write(tmp_path / f"a{row}", loras, loras.theta[row]), {row}) == row
        assert eyes.shows_file(write(tmp_path / f"b{row}", loras, loras.retrained[row]), {row}) == row
    for row in (1001, 1005):
        assert eyes.shows_file(write(tmp_path / f"c{row}", loras, loras.theta[row]), set(WHO)) is None


def test_a_sample_of_an_insiders_steps(world: Path, eyes: Eyes, tmp_path: Path) -> None:
    shutil.copy(world / PHOTO, tmp_path)
    with playing(world, tmp_path, eyes, [], seed=4) as insider:
        insider.run(25)
        late(insider)
        insider.run(25)
    assert [one for one in insider.out if one.kind != RETRAINED] == []  # among 60 people the rarest are not known
    # An insider who can do nothing shows nothing.
    assert insider.done["bring_in"]
    assert insider.judged >= 3


def test_every_command_is_in_the_repertoire_or_said_why_not() -> None:
    commands = set(_leaves(cli))
    assert not set(covered()) & set(EXEMPT)
    assert commands - set(covered()) - set(EXEMPT) == set()
    assert (set(covered()) | set(EXEMPT)) - commands == set()
    assert len({move.name for move in MOVES}) == len(MOVES)


def _leaves(command: click.Command, *path: str) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from _leaves(found, *path, name)
