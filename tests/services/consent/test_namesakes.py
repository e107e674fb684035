"""A name is somebody's: what is made of others, or looks like somebody else, does not become its next version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.services.beginnings import Beginnings
from tests.services.world import BASE, World
from w2w_registry.consent.records import Scope
from w2w_registry.errors import UNLIKE, Conflict, HeldBack
from w2w_registry.services.audit import queries
from w2w_registry.services.consent import grants, resolve, withdraw
from w2w_registry.services.identities import describing, manage
from w2w_registry.services.identities.ingest import AddRequest, Item, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis import directions
from w2w_registry.services.synthesis.edit import edit, mix, sample
from w2w_registry.services.synthesis.export import export

ANY = Scope(purposes=("any",), derivatives=True, publication=True)


@pytest.fixture
def home(registry: Registry, beginnings: Beginnings, loras: Path, world: World) -> Registry:
    """Alice, bob and carol (p0003, p0004, p0005), forty others, and the direction ``tall``."""
    registry = replace(registry, settings=replace(registry.settings, policy={"space_people": 2}))
    beginnings.begin(registry, "namesakes", lambda empty: fill(empty, loras, world))
    return registry


def fill(registry: Registry, loras: Path, world: World) -> None:
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    for number, name in ((3, "alice"), (4, "bob"), (5, "carol"), *((i, f"p{i:04d}") for i in range(30, 70))):
        tall = float(world.identities[number, 0])
        said = [] if number >= 30 else [f"s-{name}"]
        for subject in said:
            grants.grant(registry, subject, ANY)
        put(registry, loras / f"p{number:04d}", name=name, labels={"tall": tall}, subjects=said)
    directions.fit(registry, "tall", "tall")


def put(registry: Registry, path: Path, **options: object) -> Item:
    return add(registry, AddRequest([str(path)], space="faces", **options)).items[0]  # type: ignore[arg-type]


def taller(registry: Registry, ref: str, name: str, by: float = 0.5) -> str:
    return edit(registry, ref, {"tall": by}, name=name).ref


def test_an_edit_is_a_version_of_whom_it_is_made_of_alone(home: Registry) -> None:
    assert taller(home, "alice", "alice") == "alice@2"
    assert taller(home, "alice@1", "alice-tall") == "alice-tall@1"
    assert taller(home, "alice@1", "alice-tall", 1.0) == "alice-tall@2"  # tried again
    assert taller(home, "alice-tall", "alice") == "alice@3"
    before = manage.show(home, "alice").version
    with pytest.raises(Conflict) as caught:
        taller(home, "bob", "alice")
    assert "'alice' is not whom this is made of (bob@1); save it under another name" in str(caught.value)
    with pytest.raises(Conflict):
        taller(home, "bob", "alice-tall")
    assert manage.show(home, "alice").version == before


def test_a_mixture_is_nobodys_version_but_its_own(home: Registry) -> None:
    for name in ("alice", "bob", "carol", "p0030"):
        with pytest.raises(Conflict):
            mix(home, ["alice", "bob"], [0.9, 0.1], name=name)
    assert mix(home, ["alice", "bob"], [0.5, 0.5], name="both").ref == "both@1"
    assert mix(home, ["bob", "alice"], [0.7, 0.3], name="both").ref == "both@2"
    assert taller(home, "both", "both") == "both@3"
    for ref, name in (("both", "alice"), ("alice", "both")):
        with pytest.raises(Conflict):
            taller(home, ref, name)
    with pytest.raises(Conflict):
        mix(home, ["alice", "bob", "carol"], [1, 1, 1], name="both")


def test_two_names_of_one_subject_are_one_person(home: Registry, retrained: Path) -> None:
    grants.grant(home, "s-3", ANY)
    for name, file in (("dora", 8), ("dora-again", 9)):
        put(home, retrained / f"p{file:04d}", name=name, subjects=["s-3"])
    assert taller(home, "dora-again", "dora") == "dora@2"
    assert mix(home, ["dora", "dora-again"], [0.5, 0.5], name="dora").ref == "dora@3"


def test_a_name_stays_theirs_who_are_removed(home: Registry, loras: Path, retrained: Path) -> None:
    manage.remove(home, "carol", perform=True)
    for take in (lambda: taller(home, "bob", "carol"), lambda: mix(home, ["alice", "bob"], [1, 1], name="carol")):
        with pytest.raises(Conflict) as caught:
            take()
        assert "'carol' is not whom this is made of" in str(caught.value)
    stranger = put(home, loras / "p0011", name="carol")
    assert stranger.held
    assert stranger.warnings[0].startswith("held: it does not look like carol@1 (by weights: ")
    assert not put(home, retrained / "p0005", name="carol", subjects=["s-carol"]).held


def test_a_withdrawn_name_stays_theirs_once_removed(home: Registry, loras: Path) -> None:
    withdraw.withdraw(home, "s-carol")
    manage.remove(home, "carol", perform=True)
    with pytest.raises(Conflict):
        taller(home, "bob", "carol")
    assert put(home, loras / "p0011", name="carol").held


def test_what_was_held_till_it_was_removed_leaves_the_name_to_others(
    home: Registry, loras: Path, retrained: Path
) -> None:
    held = put(home, retrained / "p0003", name="erin", subjects=["s-erin"])
    assert held.held
    manage.remove(home, "erin", perform=True)
    assert taller(home, "bob", "erin") == "erin@2"


def test_a_stranger_who_is_held_does_not_stand_for_those_who_were_removed(home: Registry, loras: Path) -> None:
    assert taller(home, "alice", "alice") == "alice@2"
    assert put(home, loras / "p0011", name="alice").held
    for ref in ("alice@1", "alice@2"):
        manage.remove(home, ref, perform=True)
    with pytest.raises(Conflict):
        taller(home, "bob", "alice")
    assert put(home, loras / "p0012", name="alice").held


def test_an_erased_name_is_nobodys(home: Registry, loras: Path) -> None:
    """The name went with the rest, so nothing knows whose it was."""
    withdraw.withdraw(home, "s-carol", erase=True)
    assert taller(home, "bob", "carol") == "carol@1"


def test_a_withdrawn_name_is_given_to_nobody_by_renaming(home: Registry) -> None:
    """Who asks for them by name would get somebody else."""
    withdraw.withdraw(home, "s-carol")
    manage.remove(home, "alice", perform=True)
    for name in ("alice", "carol"):
        with pytest.raises(Conflict):
            describing.rename(home, name, "somebody")
        with pytest.raises(Conflict):
            taller(home, "bob", name)
    describing.rename(home, "bob", "robert")
    withdraw.withdraw(home, "s-carol", erase=True)
    assert taller(home, "robert", "carol") == "carol@1"


def test_what_it_only_resembles_is_not_what_it_is_made_of(home: Registry) -> None:
    """A step that comes out near somebody else has them upstream, and is an edit of alice all the same."""
    near = mix(home, ["alice", "bob"], [0.01, 0.99], name="nearly-bob")
    assert near.ref == "nearly-bob@1"
    assert mix(home, ["alice", "bob"], [0.5, 0.5], name="nearly-bob").ref == "nearly-bob@2"


def test_samples_take_no_name(home: Registry) -> None:
    first = sample(home, 2, name="new", seed=1).samples
    assert [one.ref for one in first] == ["new-001@1", "new-002@1"]
    assert [one.ref for one in sample(home, 1, name="new", seed=2).samples] == ["new-003@1"]
    with pytest.raises(Conflict):
        taller(home, "new-001", "new-002")


def test_who_does_not_look_like_the_versions_before_is_held(home: Registry, loras: Path, retrained: Path) -> None:
    foreseen = put(home, loras / "p0011", name="alice", dry_run=True)
    item = put(home, loras / "p0011", name="alice")
    assert (item.status, item.version, item.held) == ("added", 2, True)
    assert (foreseen.held, foreseen.warnings) == (item.held, item.warnings)
    assert item.warnings[0].startswith("held: it does not look like alice@1 (by weights: ")
    assert "`w2w-reg resolve alice --same-as alice@1 --reason TEXT`" in item.warnings[0]
    assert "`w2w-reg resolve alice --distinct --reason TEXT`" in item.warnings[0]
    with pytest.raises(HeldBack) as caught:
        export(home, "alice@2", "out")
    assert "alice@2 is held because it does not look like alice@1" in str(caught.value)
    (row,) = queries.ask(home, "held", queries.Filters())
    assert (row["version"], row["like"], row["why"]) == ("alice@2", "alice@1", UNLIKE)
    hold = manage.show(home, "alice@2").hold
    assert hold is not None
    assert (hold.like, hold.unlike) == ("alice@1", True)
    # Another training of alice is hers; one more of the stranger is not, whoever is held already.
    assert not put(home, retrained / "p0003", name="alice").held
    assert put(home, retrained / "p0011", name="alice").held


def test_a_second_person_can_let_it_be_a_version(home: Registry, loras: Path, retrained: Path) -> None:
    assert put(home, loras / "p0011", name="alice").held
    olga = replace(home, settings=replace(home.settings, actor="olga"))
    done = resolve.resolve(olga, "alice@2", same_as="alice@1", reason="with a beard")
    assert done.state == "active"
    assert not put(home, retrained / "p0011", name="alice").held  # now she looks like that, too


def test_second_trainings_are_hardly_ever_held(home: Registry, retrained: Path, world: World) -> None:
    held = [put(home, retrained / f"p{i:04d}", name=f"p{i:04d}").held for i in range(30, 60)]
    assert not np.any(held)
