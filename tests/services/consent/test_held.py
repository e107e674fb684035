"""Held: who resembles somebody it does not say it is, is found and shown, and nothing else, until somebody decides."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.services.beginnings import Beginnings
from tests.services.world import BASE, World
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Scope, Use
from w2w_registry.errors import Conflict, ConsentDenied, HeldBack, RegistryError, SecondPersonNeeded, UsageError
from w2w_registry.lora import write_lora
from w2w_registry.services.audit import log, queries
from w2w_registry.services.consent import gate, grants, resolve, withdraw
from w2w_registry.services.identities import browsing, manage
from w2w_registry.services.identities.ingest import AddRequest, Item, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis.edit import mix
from w2w_registry.services.synthesis.export import export

EVERYTHING = Scope(purposes=("any",), derivatives=True, publication=True)


@pytest.fixture
def home(registry: Registry, beginnings: Beginnings, loras: Path) -> Registry:
    """Alice (p0003) is known, and mallory agrees to everything; several people work here."""
    registry = replace(registry, settings=replace(registry.settings, policy={"space_people": 2}))
    beginnings.begin(registry, "held", lambda empty: fill(empty, loras))
    return registry


def fill(registry: Registry, loras: Path) -> None:
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    put(registry, loras / "p0003", name="alice", subjects=["s-alice"])
    put(registry, *(loras / f"p{i:04d}" for i in range(40, 60)))
    grants.grant(registry, "s-mallory", EVERYTHING)


@pytest.fixture
def other(home: Registry) -> Registry:
    """The same registry, with another person at it."""
    return replace(home, settings=replace(home.settings, actor="olga"))


def put(registry: Registry, *paths: Path, **options: object) -> Item:
    return add(registry, AddRequest([str(p) for p in paths], space="faces", **options)).items[0]  # type: ignore[arg-type]


def state(registry: Registry, name: str) -> str:
    return str(manage.show(registry, name)["state"])


def exported(registry: Registry, name: str, tmp_path: Path) -> bool:
    """Whether a version goes out; a refusal has to be a refusal."""
    try:
        export(registry, name, str(tmp_path / "out"), force=True)
    except ConsentDenied:
        return False
    return True


@pytest.mark.parametrize(
    ("claim", "held"),
    [
        ({"subjects": ["s-mallory"]}, True),  # another subject
        ({"subjects": []}, True),  # somebody unknown
        ({"kind": "style"}, True),  # nobody
        ({"kind": "product", "subjects": ["s-alice"]}, True),  # another kind
        ({"subjects": ["s-alice"]}, False),
        ({"subjects": ["s-alice", "s-mallory"]}, False),  # then both have to agree
    ],
)
def test_what_is_said_is_held_against_what_it_resembles(
    home: Registry, retrained: Path, claim: dict[str, object], held: bool
) -> None:
    foreseen = put(home, retrained / "p0003", name="newcomer", dry_run=True, **claim)
    item = put(home, retrained / "p0003", name="newcomer", **claim)
    assert (item.status, item.held) == ("added", held)
    assert (foreseen.held, foreseen.warnings) == (item.held, item.warnings)
    assert state(home, "newcomer") == ("held" if held else "active")
    assert log.verify(home).ok


def test_a_person_trained_twice_is_held_neither_as_their_own_version_nor_among_the_unnamed(
    home: Registry, retrained: Path, loras: Path
) -> None:
    assert not put(home, retrained / "p0003", name="alice").held
    put(home, loras / "p0005", name="eve")
    assert not put(home, retrained / "p0005", name="eve-again").held
    # Nor is it named afterwards by one person alone.
    assert put(home, retrained / "p0005", name="eve-again", subjects=["s-mallory"]).status == "failed"


def test_an_unnamed_person_is_nobodys_to_name(home: Registry, retrained: Path, loras: Path) -> None:
    put(home, loras / "p0005", name="eve")
    assert put(home, retrained / "p0005", name="mine", subjects=["s-mallory"]).held
    assert put(home, retrained / "p0005", name="eve", subjects=["s-mallory"]).status == "existing"


def test_held_is_found_and_shown_and_nothing_else(home: Registry, retrained: Path, tmp_path: Path) -> None:
    put(home, retrained / "p0003", name="newcomer", subjects=["s-mallory"])
    assert "newcomer" in [hit.identity for hit in search(home, str(retrained / "p0003")).results]
    for where in ("held", "state = held", "kind = person and held", "not (not held)"):
        assert [row["identity"] for row in browsing.browse(home, where=where)] == ["newcomer"]
    assert "alice@1" in manage.show(home, "newcomer")["held"]
    with home.catalog.read() as session:
        ids = [version_for(session, "newcomer").id]
    uses = [use for use in Use if use not in (Use.SEARCH, Use.REGISTER)]
    for use in (
        lambda: export(home, "newcomer", str(tmp_path / "out")),
        lambda: mix(home, ["newcomer", "p0041"], [0.5, 0.5], name="mixed"),
        lambda: manage.set_alias(home, "production", "newcomer"),
        *(partial(gate.require, home, use, versions=ids) for use in uses),
    ):
        with pytest.raises(HeldBack) as caught:
            use()
        assert caught.value.exit_code == 4
        assert (caught.value.name, caught.value.like) == ("newcomer@1", "alice@1")
    (row,) = queries.ask(home, "held", queries.Filters())
    assert (row["version"], row["like"], row["why"], row["added_by"]) == (
        "newcomer@1", "alice@1", "another subject", "curator",
    )  # fmt: skip


def test_another_person_decides(home: Registry, other: Registry, retrained: Path, tmp_path: Path) -> None:
    put(home, retrained / "p0003", name="newcomer", subjects=["s-mallory"])
    with pytest.raises(SecondPersonNeeded):
        resolve.resolve(home, "newcomer", distinct=True, reason="trust me")
    with pytest.raises(UsageError):
        resolve.resolve(other, "newcomer", distinct=True, reason=" ")
    done = resolve.resolve(other, "newcomer", distinct=True, reason="twins, seen both")
    assert (done["state"], done["subjects"]) == ("active", ["s-mallory"])
    assert exported(home, "newcomer", tmp_path)
    # Decided anew: it was alice after all, and alice never agreed.
    done = resolve.resolve(other, "newcomer", same_as="alice", reason="looked again")
    assert done["subjects"] == ["s-alice", "s-mallory"]
    assert not exported(home, "newcomer", tmp_path)
    assert resolve.resolve(other, "newcomer", distinct=True, reason="once more")["subjects"] == ["s-mallory"]
    told = [e["payload"]["outcome"] for e in log.events_list(home, action="version.resolve")]
    assert told == ["distinct", "same", "distinct"]
    assert log.verify(home).ok


def test_the_same_as_somebody_unnamed_is_unnamed(
    home: Registry, other: Registry, loras: Path, retrained: Path, tmp_path: Path
) -> None:
    put(home, loras / "p0005", name="eve")
    put(home, retrained / "p0005", name="mine", kind="style", subjects=["s-mallory"])
    done = resolve.resolve(other, "mine", same_as="eve", reason="it is eve")
    assert done["subjects"] == []
    assert manage.show(home, "mine")["kind"] == "person"
    assert not exported(home, "mine", tmp_path)
    resolve.resolve(other, "mine", distinct=True, reason="a style after all")
    shown = manage.show(home, "mine")
    assert (shown["kind"], shown["subjects"]) == ("style", ["s-mallory"])


def test_whom_somebody_vouched_for_no_other_takes_away_alone(
    home: Registry, other: Registry, loras: Path, retrained: Path
) -> None:
    """Else whoever says of a model in service that it is somebody unnamed takes it out of its subject's consent."""
    put(home, loras / "p0005", name="eve")
    resolve.resolve(other, "alice", distinct=True, reason="looked at it")
    with pytest.raises(Conflict, match="not held"):
        resolve.resolve(other, "alice", same_as="eve", reason="it is eve")
    assert manage.show(home, "alice")["subjects"] == ["s-alice"]
    put(home, retrained / "p0003", name="newcomer", subjects=["s-mallory"])
    resolve.resolve(other, "newcomer", distinct=True, reason="twins")
    third = replace(home, settings=replace(home.settings, actor="ivan"))
    done = resolve.resolve(third, "newcomer", same_as="eve", reason="it is eve")
    assert done["subjects"] == ["s-mallory"]
    assert log.verify(home).ok


def test_a_registry_of_one_person_says_so(home: Registry, retrained: Path) -> None:
    alone = replace(home, settings=replace(home.settings, policy={"space_people": 2, "second_person": False}))
    put(alone, retrained / "p0003", name="newcomer", subjects=["s-mallory"])
    assert resolve.resolve(alone, "newcomer", distinct=True, reason="I met both")["state"] == "active"


def test_withdrawing_and_agreeing_again_releases_nothing(home: Registry, retrained: Path) -> None:
    put(home, retrained / "p0003", name="newcomer", subjects=["s-mallory"])
    withdraw.withdraw(home, "s-mallory")
    assert state(home, "newcomer") == "blocked"
    try:
        grants.grant(home, "s-mallory", EVERYTHING)
    except RegistryError:
        return
    assert state(home, "newcomer") == "held"


def test_removing_and_adding_again_releases_nothing(
    home: Registry, retrained: Path, loras: Path, world: World, tmp_path: Path
) -> None:
    put(home, retrained / "p0003", name="newcomer", subjects=["s-mallory"])
    manage.remove(home, "newcomer", perform=True)
    assert put(home, retrained / "p0003", name="newcomer", subjects=["s-mallory"]).held
    # Whom it resembles may be gone from view: the very model is known all the same.
    manage.remove(home, "alice", perform=True)
    assert put(home, loras / "p0003", name="art", kind="style").held
    where = tmp_path / "third"
    write_lora(where, world.layout.unflatten(world.theta(3, 9)), world.layout.alpha, base_model=BASE)
    assert put(home, where, name="brush", kind="style").held


def test_what_was_made_of_it_before_waits_as_well(home: Registry, retrained: Path, loras: Path, tmp_path: Path) -> None:
    """A version that is held only later: by a fingerprint taken, or another decision."""
    from w2w_registry.catalog.models import Hold
    from w2w_registry.services.recording.versions import Held, hold_values

    put(home, retrained / "p0005", name="base", subjects=["s-mallory"])
    put(home, loras / "p0041", name="p0041", subjects=["s-mallory"], evidence="e" * 64)
    mix(home, ["base", "p0041"], [0.5, 0.5], name="child")
    assert exported(home, "child", tmp_path)
    with home.catalog.write("curator") as uow:
        version = version_for(uow.session, "base")
        like = version_for(uow.session, "alice")
        held = Held(like.id, "alice@1", "behaviour", "another subject", 1.0)
        uow.add(Hold(version_id=version.id, **hold_values(held, uow.now())))
        uow.session.get_one(Version, version.id).state = version.state.HELD
        uow.event("version.hold", {"version": version.id})
    assert not exported(home, "child", tmp_path)


def test_a_foreign_person_of_the_same_looks_in_another_space_is_held(
    home: Registry, world: World, loras: Path, tmp_path: Path
) -> None:
    fit_space(home, "others", [str(loras / f"p{i:04d}") for i in range(10, 80)], base_model=BASE)
    where = tmp_path / "again"
    write_lora(where, world.layout.unflatten(world.theta(3, 7)), world.layout.alpha, base_model=BASE)
    (item,) = add(home, AddRequest([str(where)], space="others", name="x", subjects=["s-mallory"])).items
    assert item.held
