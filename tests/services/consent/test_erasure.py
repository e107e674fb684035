"""An erased person is nowhere: not in the catalog, the home folder, the artifacts or unfinished work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from tests.catalog.test_session import problems
from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User
from tests.services.hub_world import World as HubWorld
from tests.services.hub_world import open_world
from tests.services.small import Small
from tests.services.spaces.test_files import make_release
from tests.services.world import BASE, World, tiny_layout
from w2w_registry.artifacts import TEMPORARY
from w2w_registry.catalog.lookup import coordinates_rows
from w2w_registry.catalog.models import Base, Space
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.records import Scope
from w2w_registry.errors import ConsentDenied, NotFound
from w2w_registry.index.factory import kept_engines
from w2w_registry.services.consent import gate, grants, subjects, withdraw
from w2w_registry.services.consent.subjects import looks_like_a_name
from w2w_registry.services.hub.release import push, push_request
from w2w_registry.services.hub.takedown import drain, takedown
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import set_alias, set_tags, unset_tags
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space, import_space
from w2w_registry.services.spaces.refit import refit_space
from w2w_registry.services.spaces.showing import list_spaces

NAME, FILE = "zaphod-beeblebrox", "zaphodsheadshot"
ANY = Scope(purposes=("any",), derivatives=True, publication=True)


def everything(registry: Registry, *folders: Path) -> bytes:
    """All bytes the registry keeps: files under its folders, and every text and blob of the catalog."""
    kept = [p.read_bytes() + str(p).encode() for folder in folders for p in folder.rglob("*") if p.is_file()]
    with registry.catalog.read() as session:
        for table in Base.metadata.sorted_tables:
            columns = ", ".join(f'"{c.name}"' for c in table.columns)
            for row in session.execute(text(f"SELECT {columns} FROM {table.name}")):
                kept += [v if isinstance(v, bytes) else str(v).encode() for v in row]
    return b"\n".join(kept)


def test_a_person_of_a_fit_set_is_gone_after_fit_then_add(registry: Registry, world: World, tmp_path: Path) -> None:
    """In the README's order: the space is fitted on files first, and they are added afterwards."""
    files = world.write(tmp_path / "loras", range(44))
    [lora] = world.write(tmp_path / "one", range(50, 51), fmt="diffusers").rglob("*.safetensors")
    lora.rename(files / f"{FILE}.safetensors")
    (files / f"{FILE}.png").write_bytes(_picture())
    registry.settings.home.mkdir(exist_ok=True)
    fit_space(registry, "tiny", [str(files)], base_model=BASE, components=10)
    add(registry, AddRequest([str(files / f"{FILE}.safetensors")], name=NAME, subjects=("s-1", "s-2")))
    add(registry, AddRequest([str(files)], space="tiny"))
    for subject in ("s-1", "s-2"):
        grants.grant(registry, subject, ANY)
    set_alias(registry, "production", NAME)
    set_tags(registry, NAME, [f"who={NAME}"])
    unset_tags(registry, NAME, ["who"])
    set_tags(registry, NAME, [f"of={NAME}"])
    search(registry, NAME, limit=3)
    for folder in (registry.settings.initializers_dir, registry.settings.training_dir, registry.settings.pictures_dir):
        folder.mkdir(parents=True)
        (folder / "state.safetensors").write_bytes(NAME.encode())
    crashed = registry.settings.temporary_dir / f"{TEMPORARY}crashed"
    crashed.mkdir(parents=True)
    (crashed / f"{FILE}.safetensors").write_bytes(NAME.encode())
    os.utime(crashed, (0, 0))
    places = (registry.settings.home, tmp_path / "artifacts")
    before = everything(registry, *places)
    assert NAME.encode() in before
    assert FILE.encode() in before
    plan = withdraw.plan_withdrawal(registry, "s-2")
    assert plan.spaces == ("tiny@1",)

    withdraw.withdraw(registry, "s-1", erase=True)
    registry.catalog.close()
    left = everything(registry, *places)
    for word in (NAME, FILE):
        assert word.encode() not in left
    assert problems(registry.catalog) == []
    for database in tmp_path.glob("catalog.db*"):
        for word in (NAME, FILE):
            assert word.encode() not in database.read_bytes()
    assert refit_space(registry, "tiny")["fit_size"] == 44


def test_derivatives_and_their_names_go_too(catalog: Catalog, tmp_path: Path) -> None:
    small = Small(catalog, tmp_path)
    for subject in ("s1", "s2"):
        small.grant(subject)
    mine = small.add(NAME, "s1", photo=FILE)
    other = small.add("bob", "s2")
    small.derive("somebody-else", mine, other, how=gate.Use.MIX)
    withdraw.withdraw(small.registry, "s1", erase=True)
    left = everything(small.registry, tmp_path / "home")
    for word in (NAME, FILE, "somebody-else", f"v{mine}"):
        assert word.encode() not in left
    assert b"bob" in left
    assert problems(catalog) == []


def test_evidence_of_two_subjects_stays_for_the_second(catalog: Catalog, tmp_path: Path) -> None:
    small = Small(catalog, tmp_path)
    form = tmp_path / "form"
    form.write_bytes(b"signed by both")
    for subject in ("s1", "s2"):
        digest = small.grant(subject, evidence=form, keep_evidence=True)["evidence_digest"]
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert small.registry.artifacts.get(digest) == b"signed by both"
    withdraw.withdraw(small.registry, "s2", erase=True)
    assert not small.registry.artifacts.exists(digest)


# -- on the Hub ------------------------------------------------------------------------------------
@pytest.fixture
def published(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[HubWorld]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    made.consent("p0001")
    made.add(NAME, subjects=["p0001"])
    yield made
    made.registry.catalog.close()


def test_the_repo_is_forgotten_once_it_is_down(published: HubWorld, tmp_path: Path) -> None:
    repo = f"acme/{NAME}"
    push(published.registry, published.client, push_request(NAME, repo))
    given = withdraw.withdraw(published.registry, "p0001", erase=True)
    assert given["receipt"]["releases_queued"][0]["repo"] == repo
    assert [outcome.finished for outcome in drain(published.registry, published.client)] == [True]
    published.registry.catalog.scrub()
    assert NAME.encode() not in everything(published.registry, tmp_path / "home")
    assert problems(published.registry.catalog) == []


def test_a_takedown_by_alias_takes_down_that_version(published: HubWorld) -> None:
    push(published.registry, published.client, push_request(NAME, f"acme/{NAME}"))
    published.add(NAME, subjects=["p0001"], seed=2)
    push(published.registry, published.client, push_request(f"{NAME}@2", "acme/second"))
    set_alias(published.registry, "production", f"{NAME}@2")
    report = takedown(published.registry, published.client, name=f"{NAME}@production", dry_run=True)
    assert [t.repo_id for t in report.targets] == ["acme/second"]
    with pytest.raises(NotFound):
        takedown(published.registry, published.client, name=f"{NAME}@staging", dry_run=True)


# -- at the gate -----------------------------------------------------------------------------------
def test_including_blocked_ones_does_not_open_the_gate(registry: Registry, world: World, tmp_path: Path) -> None:
    files = world.write(tmp_path / "loras", range(12))
    fit_space(registry, "tiny", [str(files)], base_model=BASE)
    add(registry, AddRequest([str(files / "p0001")], subjects=("s-1",)))
    add(registry, AddRequest([str(files)]))
    grants.grant(registry, "s-1", ANY)
    withdraw.withdraw(registry, "s-1")
    for include in (False, True):
        with pytest.raises(ConsentDenied):
            search(registry, "p0001", include_blocked=include)
    found = search(registry, "p0002", include_blocked=True, limit=20)
    assert "p0001" in [hit.identity for hit in found.results]
    found = search(registry, "p0002", include_blocked=True, where='name != "p0001"', limit=20)
    assert "p0001" not in [hit.identity for hit in found.results]


def test_importing_people_asks_whether_people_may_be_registered(registry: Registry, tmp_path: Path) -> None:
    make_release(tmp_path / "release", layout=tiny_layout())
    strict = replace(registry, settings=replace(registry.settings, policy={"unknown": ["search"]}))
    with pytest.raises(ConsentDenied):
        import_space(strict, "faces", str(tmp_path / "release"), base_model=BASE, identities=True)
    assert list_spaces(strict) == []
    assert import_space(registry, "faces", str(tmp_path / "release"), base_model=BASE, identities=True)


@pytest.mark.parametrize("by", ["kind", "url"])
def test_vectors_in_milvus_go_too(sqlite_catalog: Catalog, tmp_path: Path, by: str) -> None:
    """Milvus Lite's own files are searched: what it deleted would otherwise stay in them until it compacts."""
    pytest.importorskip("milvus_lite")
    small = Small(sqlite_catalog, tmp_path)
    options = {"kind": "milvus"} if by == "kind" else {"url": f"milvus+lite://{tmp_path}/elsewhere/vectors.db"}
    registry = replace(small.registry, settings=replace(small.registry.settings, index=options))
    folder = registry.settings.index_dir if by == "kind" else tmp_path / "elsewhere"
    small.grant("s1")
    version = small.add(NAME, "s1")
    small.add("b")
    with registry.catalog.read() as session:
        (row,) = coordinates_rows(session, [version])[version]
        point = metric_of(session.get_one(Space, row.space_id)).unit(unpack(row.data))
    assert [hit.identity for hit in search(registry, "b").results] == ["b", NAME]
    engines = list(kept_engines(registry.settings.index, registry.settings.index_dir))
    assert len(engines) == 1
    kept = _files(folder)
    assert any(piece in kept for piece in _pieces(point))
    withdraw.withdraw(registry, "s1", erase=True)
    assert list(kept_engines(registry.settings.index, registry.settings.index_dir)) == []
    left = _files(folder)
    assert not any(piece in left for piece in _pieces(point))
    assert NAME.encode() not in left
    assert [hit.identity for hit in search(registry, "b").results] == ["b"]
    again = _files(folder)
    assert not any(piece in again for piece in _pieces(point))


def _files(folder: Path) -> bytes:
    return b"\n".join(str(p).encode() + p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def _pieces(vector: NDArray[np.float32]) -> list[bytes]:
    """Four numbers in a row, whichever of them a file begins a block with."""
    return [vector[i : i + 4].astype("<f4").tobytes() for i in range(0, len(vector) - 3)]


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("alice-smith", True), ("Jane Doe", True), ("bob", True), ("a@b.org", True), ("alice1985", True),
        ("s-17", False), ("p0007", False), ("subject-12", False), ("donor_0042", False), ("9f3c2a7d", False),
        ("7f3a9b1c-52aa-4e2b-9e0f-3f0d1c2b4a5d", False),
    ],
)  # fmt: skip
def test_ids_that_look_like_names(subject: str, expected: bool) -> None:
    assert looks_like_a_name(subject) is expected


def test_registering_a_name_is_warned_about(sqlite_catalog: Catalog, tmp_path: Path) -> None:
    small = Small(sqlite_catalog, tmp_path)
    assert subjects.add_subject(small.registry, "s-1")["warnings"] == []
    [warning] = subjects.add_subject(small.registry, "alice-smith")["warnings"]
    assert "audit log" in warning


def _picture() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()
