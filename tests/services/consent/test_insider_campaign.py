"""Nobody who refused gets out by any route, name, kind, order or space, judged by what left and what it draws.

``make test`` runs a sample; ``python -m tests.services.consent.insider`` the campaign. What a second training or a
foreign LoRA gets past the door is bounded by its rates (docs/door.md) and listed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import pytest

from examples.miniworld.unpack import load_loras
from tests.services.consent.insider.__main__ import report
from tests.services.consent.insider.allowed import allowed_by
from tests.services.consent.insider.eyes import Eyes
from tests.services.consent.insider.play import MOVES, RETRAINED, Insider
from tests.services.consent.insider.repertoire import EXEMPT, covered
from tests.services.consent.insider.world import LATE, PHOTO, REFUSED, Scale, build, late, playing, remembered, write
from w2w_registry.cli.app import cli
from w2w_registry.diffusion.adapters import Adapter
from w2w_registry.services.consent import resolve, withdraw
from w2w_registry.services.identities.ingest import AddRequest, add

WHO = [*REFUSED, *LATE]
SMALL = Scale(people=60)
NOTHING = {"steps": 1, "judged": 1, "seconds": 0.0, "tried": {}, "done": {}, "cost": {}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("insider")
    with remembered():
        build(folder, load_loras(), SMALL)
        yield folder


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes.opened(load_loras(), SMALL.at_hand[:16])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry of one person."""
    folder = tmp_path_factory.mktemp("alone")
    with remembered():
        build(folder, load_loras(), SMALL, alone=True)
        yield folder


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
    with playing(world, tmp_path, eyes, [], seed=5) as insider:
        insider.run(25)
        late(insider)
        insider.run(25)
    assert [one for one in insider.out if one.kind != RETRAINED] == []  # among 60 people the rarest are not known
    # An insider who can do nothing shows nothing.
    assert sum(done for move, done in insider.done.items() if move.startswith("bring_in"))
    assert insider.judged >= 3


@pytest.mark.parametrize("how", ["forgotten", "resolved", "neither"])
def test_whom_a_policy_of_one_person_lets_out_is_told_from_who_gets_out(
    alone: Path, eyes: Eyes, tmp_path: Path, how: str
) -> None:
    loras, shown = load_loras(), 3
    with playing(alone, tmp_path, eyes, [], seed=1) as insider:
        copy = write(tmp_path / "copy", loras, loras.theta[shown])
        if how == "forgotten":
            withdraw.withdraw(insider.registry, "s3", erase=True, protect=False)
        elif how == "resolved":
            brought_in(insider, "other")
        insider.judge(copy, "a copy on a stick", "p0003")
        insider.look()
        (escape,) = insider.out
        assert escape.row == shown
        assert (escape.allowed is not None) is (how == "forgotten")  # whoever was resolved is a stranger
        told = report({0: {**NOTHING, "alone": True, "out": [{**asdict(escape), "kind": escape.kind}]}})
    assert told.endswith("0 out" if how == "forgotten" else "1 out")
    assert ("consent.withdraw of s3, by insider alone" in told) is (how == "forgotten")


def test_a_model_that_one_person_resolved_explains_whom_it_draws(alone: Path, eyes: Eyes, tmp_path: Path) -> None:
    with playing(alone, tmp_path, eyes, [], seed=1) as insider:
        brought_in(insider, "other")
        found = allowed_by(insider.registry, Sees(7), 7, "s7", 10_000)
        assert found is not None
        assert (found.actor, found.what.split(" ")[0]) == ("insider", "version.resolve")
        assert allowed_by(insider.registry, Sees(7), 7, "s7", found.seq - 1) is None
        assert allowed_by(insider.registry, Sees(8), 7, "s7", 10_000) is None


def brought_in(insider: Insider, name: str) -> None:
    """A stranger's model, of whom the one who brought it in says that they met them."""
    (item,) = add(insider.registry, AddRequest([str(insider.files[-1][0])], name=name)).items
    assert item.status == "added"
    resolve.resolve(insider.registry, name, distinct=True, reason="met them")


class Sees:
    """Eyes that see one row in everything."""

    def __init__(self, row: int) -> None:
        self.row = row

    def shows(self, adapters: Sequence[Adapter], refusing: Sequence[frozenset[int]]) -> list[int | None]:
        assert all(adapter.theta is not None for adapter in adapters)
        return [self.row for _ in adapters]


def test_runs_from_before_the_event_was_kept_are_listed_as_they_are() -> None:
    old = {"step": 116, "row": 3, "way": "train --out", "what": "p0003", "kind": "copy"}
    told = report({0: {**NOTHING, "alone": True, "out": [old]}})
    assert "run 0 step 116: p0003 by train --out: p0003 (a registry of one person)" in told
    assert told.endswith("1 out")


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
