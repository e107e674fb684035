"""New LoRAs into an old space, and its identities into another, with and without their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from tests.services.beginnings import Beginnings
from tests.services.world import BASE, World
from w2w_registry.catalog.models import Space, SpaceMember
from w2w_registry.catalog.points import placed_versions
from w2w_registry.catalog.resolve import space_for
from w2w_registry.errors import UsageError
from w2w_registry.lora import write_lora
from w2w_registry.services.consent.withdraw import withdraw
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.spaces.migrate import migrate_space
from w2w_registry.services.spaces.refit import refit_space
from w2w_registry.services.spaces.showing import list_spaces, show_space
from w2w_registry.services.spaces.update import update_space


@pytest.fixture
def first(registry: Registry, beginnings: Beginnings, world: World, tmp_path: Path) -> Path:
    """A space of 50 people, all registered."""
    folder = world.write(tmp_path / "first", range(50))
    beginnings.begin(registry, "first", lambda empty: register(empty, folder))
    return folder


def register(registry: Registry, folder: Path) -> None:
    fit_space(registry, "tiny", [str(folder)], base_model=BASE, components=30)
    for i in range(50):
        add(registry, AddRequest([str(folder / f"p{i:04d}")], subjects=(f"s-{i}",)))


@pytest.fixture
def more(world: World, tmp_path: Path) -> Path:
    return world.write(tmp_path / "more", range(50, 80))


def test_new_people_are_taken_in_and_old_ones_come_along(registry: Registry, first: Path, more: Path) -> None:
    for folder in first.iterdir():  # the files they came from are gone
        for file in folder.iterdir():
            file.unlink()
    value = update_space(registry, "tiny", [str(more)])
    assert (value["space"], value["refit_of"], value["fit_size"], value["added"]) == ("tiny@2", "tiny@1", 80, 30)
    assert (value["placed"], value["mapped"], value["by_file"]) == (50, 50, 0)
    assert value["warnings"] == []
    assert 0 <= value["lost"] < 0.2
    assert value["mapping_loss"] < 0.6
    assert show_space(registry, "tiny@2")["threshold"] is not None
    add(registry, AddRequest([str(more)], space="tiny@2"))
    for name in ("p0003", "p0077"):
        assert search(registry, name, space="tiny@2", limit=1).results[0].identity == name
    with registry.catalog.read() as session:
        members = session.scalars(
            select(SpaceMember.name).join(Space, Space.id == SpaceMember.space_id).where(Space.number == 2)
        ).all()
    assert len(set(members)) == 80  # so that whoever withdraws is found in both


def test_the_update_is_near_a_fit_of_all(registry: Registry, first: Path, more: Path) -> None:
    update_space(registry, "tiny", [str(more)])
    fit_space(registry, "all", [str(first), str(more)], base_model=BASE, components=30)
    shown = [show_space(registry, name)["explained_variance"] for name in ("tiny@2", "all")]
    assert shown[0] == pytest.approx(shown[1], abs=0.02)


def test_nobody_who_withdrew_is_carried_on(registry: Registry, first: Path, more: Path) -> None:
    withdraw(registry, "s-7")
    with pytest.raises(UsageError, match="withdrawn") as caught:
        update_space(registry, "tiny", [str(more)])
    assert "space refit tiny@1 --without s-7" in str(caught.value.fields["hint"])
    assert len(list_spaces(registry)) == 1
    refit_space(registry, "tiny", without=["s-7"])
    assert update_space(registry, "tiny", [str(more)])["fit_size"] == 79


def test_nobody_who_refused_is_taken_in(registry: Registry, first: Path, more: Path, world: World) -> None:
    add(registry, AddRequest([str(more / "p0060")], subjects=("s-60",)))
    withdraw(registry, "s-60")
    value = update_space(registry, "tiny", [str(more)])
    assert value["added"] == 29
    assert any("refused" in text for text in value["warnings"])


def test_what_is_left_out_is_told(registry: Registry, first: Path, more: Path, world: World, tmp_path: Path) -> None:
    value = update_space(registry, "tiny", [str(more), str(first / "p0001")])
    assert value["added"] == 30
    assert any("p0001" in text and "already" in text for text in value["warnings"])
    with pytest.raises(UsageError, match="already"):
        update_space(registry, "tiny@2", [str(more)])
    rng = np.random.default_rng(9)
    ours = world.layout.unflatten(world.mean.astype(np.float32))
    for i in range(3):
        tensors = world.layout.unflatten(rng.normal(size=world.layout.dim).astype(np.float32))
        for (module, factor), array in tensors.items():
            if factor == "A":  # reads nothing of what theirs read
                axis = ours[(module, factor)] / np.linalg.norm(ours[(module, factor)])
                array -= np.sum(array * axis) * axis
        write_lora(tmp_path / f"foreign/{i}", tensors, 4.0, base_model=BASE)
    with pytest.raises(UsageError, match="the same initialisation"):
        update_space(registry, "tiny", [str(tmp_path / "foreign")])


def test_identities_move_with_and_without_files(registry: Registry, first: Path, more: Path) -> None:
    fit_space(registry, "all", [str(first), str(more)], base_model=BASE, components=30)
    plan = migrate_space(registry, "tiny", "all", dry_run=True)
    assert plan["to_place"] == 50
    with registry.catalog.read() as session:
        assert placed_versions(session, space_for(session, "all").id) == []
    withdraw(registry, "s-9")
    value = migrate_space(registry, "tiny", "all")
    assert (value["placed"], value["by_file"], value["mapped"], value["mapping_loss"]) == (49, 49, 0, None)
    assert migrate_space(registry, "tiny", "all")["placed"] == 0
    assert search(registry, "p0003", space="all", limit=1).results[0].identity == "p0003"
    fit_space(registry, "other", [str(first), str(more)], base_model=BASE, components=29)
    mapped = migrate_space(registry, "tiny", "other", files=False)
    assert (mapped["by_file"], mapped["mapped"]) == (0, 49)
    assert mapped["mapping_loss"] < 0.3


def test_spaces_that_hold_other_models_are_refused(
    registry: Registry, first: Path, world: World, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="one space"):
        migrate_space(registry, "tiny", "tiny")
    folder = tmp_path / "elsewhere"
    for i in range(25):
        write_lora(folder / f"q{i}", world.layout.unflatten(world.theta(i, 3)), 4.0)
    fit_space(registry, "elsewhere", [str(folder)], base_model="some/other")
    with pytest.raises(UsageError, match="some/other"):
        migrate_space(registry, "tiny", "elsewhere")
