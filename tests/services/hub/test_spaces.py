"""Weight spaces to the Hub and back, whole and in shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import select

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User, Visibility
from tests.services.hub_world import World, open_world
from w2w_registry.catalog.models import OperationInput, Space
from w2w_registry.errors import BadFile, NotFound, RegistryError
from w2w_registry.hub.plan import Access
from w2w_registry.services.hub.listing import list_releases
from w2w_registry.services.hub.release import PushRequest, push
from w2w_registry.services.hub.resolving import space_folder
from w2w_registry.services.hub.spaces import fetched_space, push_space, spectrum_svg
from w2w_registry.services.hub.sync import sync
from w2w_registry.services.spaces.manage import import_space

REPO = "acme/faces"


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[World]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    yield made
    made.registry.catalog.close()


@pytest.mark.parametrize("shard", [1 << 30, 600], ids=["whole", "shards"])
def test_there_and_back_bit_for_bit(
    world: World, tmp_path: Path, sqlite_template: Path, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", world.hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", world.owner.token)
    report = push_space(world.registry, world.client, "faces", REPO, access=Access.PUBLIC, shard=shard)
    assert (report.tag, report.access) == ("v1", Access.PUBLIC)
    files = world.hub.files(REPO)
    assert (len([f for f in files if f.startswith("components-")]) > 3) is (shard == 600)
    assert b"w2w-space" in (files["README.md"] or b"")
    other = open_world(tmp_path, sqlite_template, world.hub, world.owner, "other")
    with other.registry.catalog.write("t") as uow:
        row = uow.session.get_one(Space, other.space_id)
        row.digest = "0" * 64
        uow.event("test")
    with space_folder(other.registry, f"hf://{REPO}@v1") as (folder, origin):
        shown = import_space(other.registry, "theirs", folder, origin=origin)
    assert shown["digest"] == world.space.digest
    with other.registry.catalog.read() as session:
        refs = session.scalars(
            select(OperationInput.ref).where(OperationInput.operation_id == shown["operation"])
        ).all()
    assert refs == [f"{REPO}@{report.commit}"]
    other.registry.catalog.close()


def test_again_is_no_commit(world: World) -> None:
    first = push_space(world.registry, world.client, "faces@1", REPO)
    assert world.hub.store.repos[REPO].visibility is Visibility.PRIVATE
    again = push_space(world.registry, world.client, "faces@1", REPO)
    assert (again.commit, again.plan.empty) == (first.commit, True)
    assert len(world.hub.history(REPO)) == 2
    dry = push_space(world.registry, world.client, "faces@1", "acme/new", dry_run=True)
    assert dry.commit is None
    assert world.hub.repo("acme/new") is None
    assert [r["version"] for r in list_releases(world.registry)] == ["faces@1"]


def test_sync_puts_a_deleted_space_back(world: World) -> None:
    push_space(world.registry, world.client, "faces", REPO)
    world.hub.store.delete(REPO, world.owner)
    assert not sync(world.registry, world.client, push=True).differs
    assert "space.safetensors" in world.hub.files(REPO)


def test_releases_of_identities_say_where_their_space_is(world: World) -> None:
    report = push_space(world.registry, world.client, "faces", REPO)
    world.consent("p0001")
    world.add("acme/alice", subjects=["p0001"])
    push(world.registry, world.client, PushRequest("acme/alice", "acme/alice"))
    assert f"{REPO}@{report.commit}".encode() in (world.hub.files("acme/alice")["w2w.json"] or b"")


def test_what_is_no_space_or_a_broken_one(world: World, tmp_path: Path) -> None:
    world.hub.store.create(world.owner, None, "faces", Visibility.PUBLIC)
    world.hub.store.plant(REPO, {"README.md": b"hi"})
    with pytest.raises(NotFound, match="weight space"), fetched_space(world.client, REPO):
        pass
    push_space(world.registry, world.client, "faces", REPO, shard=600)
    shards = sorted(f for f in world.hub.files(REPO) if f.startswith("components-"))
    del world.hub.store.repos[REPO].resolve("main").tree[shards[0]]  # type: ignore[attr-defined]
    with pytest.raises(BadFile, match=r"fit together|not the one"), fetched_space(world.client, REPO):
        pass
    world.hub.store.plant(REPO, {shards[0]: b"x" * 100})
    with pytest.raises(RegistryError), fetched_space(world.client, REPO):
        pass


def test_the_spectrum_is_a_drawing() -> None:
    drawing = spectrum_svg([0.5, 0.25, 0.1])
    assert drawing is not None
    root = ElementTree.fromstring(drawing)
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    assert "85.0% in all" in drawing
    assert spectrum_svg([]) is None
    assert spectrum_svg([1.0]) is not None
