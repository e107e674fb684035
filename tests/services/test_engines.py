"""One scenario on every engine of the catalog, the vectors and the artifacts: the same answers everywhere."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.services.world import BASE, World
from tests.test_artifacts import bucket  # noqa: F401
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Scope
from w2w_registry.errors import RegistryError
from w2w_registry.services.consent import grants, withdraw
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.recording.unused import gc
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search, search_many
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis.edit import mix, sample
from w2w_registry.settings import Settings

OPEN = {"unknown": ["register", "search", "edit", "mix", "sample", "export"], "second_person": False}
ANY = Scope(purposes=("any",), derivatives=True, publication=True)


@dataclass(frozen=True)
class Engines:
    """What differs: where the catalog, the vectors and the artifacts lie."""

    database: str = "sqlite"
    index: dict[str, Any] = field(default_factory=lambda: {"kind": "exact"})
    artifacts: str = "folder"

    @property
    def needs(self) -> list[str]:
        found = {"faiss": ["faiss"], "milvus": ["pymilvus", "milvus_lite"]}.get(str(self.index["kind"]), [])
        return found + (["moto.server", "s3fs"] if self.artifacts == "s3" else [])


PLAIN = Engines()
OTHERS = {
    "postgresql": Engines(database="postgresql"),
    "faiss": Engines(index={"kind": "faiss"}),
    "milvus": Engines(index={"kind": "milvus"}),
    "s3": Engines(artifacts="s3"),
    "memory": Engines(artifacts="memory"),
    "postgresql, milvus, s3": Engines("postgresql", {"kind": "milvus"}, "s3"),
}


def played(registry: Registry, loras: Path) -> dict[str, Any]:
    """Everything the scenario answers, by what was asked."""
    told: dict[str, Any] = {}
    fit_space(registry, "tiny", [str(loras)], base_model=BASE, components=10)
    for i in range(4):
        add(registry, AddRequest([str(loras / f"p{i:04d}")], name=f"person-{i}", subjects=(f"s-{i}",)))
        grants.grant(registry, f"s-{i}", ANY)
    told["added"] = [(item.identity, str(item.status)) for item in add(registry, AddRequest([str(loras)])).items]
    told["mixed"] = mix(registry, ["person-1", "p0009"], (0.4, 0.6), name="both")["ref"]
    sample(registry, 20, seed=4)
    told["search"] = asked(registry)
    withdraw.withdraw(registry, "s-1")
    told["withdrawn"] = asked(registry)
    withdraw.withdraw(registry, "s-2", erase=True)
    told["erased"] = asked(registry)
    remove(registry, "p0007", perform=True)
    told["removed"] = asked(registry)
    registry.artifacts.put(b"what a crashed command left")
    swept = gc(registry, perform=True, alone=True, grace=0)
    told["swept"] = (len(swept.unused), swept.size)
    told["kept"] = sorted(registry.artifacts.digests())
    told["after"] = asked(registry)
    return told


def asked(registry: Registry) -> dict[str, Any]:
    """Whom searches of several kinds find, and how near."""
    found: dict[str, Any] = {}
    for name in ("person-0", "person-1", "person-2", "p0007", "sample-003"):
        try:
            found[name] = hits(search(registry, name, limit=5, exact=True))
            found[f"{name} above"] = hits(search(registry, name, limit=3, where="kind = 'person'", certified=True))
        except RegistryError as error:
            found[name] = type(error).__name__
    found["many"] = [hits(one) for one in search_many(registry, ["p0010", "p0011"], limit=4)]
    return found


def hits(found: Any) -> list[tuple[str, float]]:
    return [(hit.identity, round(float(hit.score), 6)) for hit in found.results]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory, world: World) -> Path:
    return world.write(tmp_path_factory.mktemp("engines"), range(44))


@pytest.fixture(scope="module")
def plainly(tmp_path_factory: pytest.TempPathFactory, loras: Path, sqlite_template: Path) -> dict[str, Any]:
    """What SQLite, exact search and a folder answer."""
    from tests.conftest import fresh_sqlite

    folder = tmp_path_factory.mktemp("plain")
    (url,) = fresh_sqlite(sqlite_template, folder)
    with opened(PLAIN, url, folder, str(folder / "home" / "artifacts")) as registry:
        return played(registry, loras)


@contextmanager
def opened(engines: Engines, url: str, folder: Path, artifacts: str) -> Iterator[Registry]:
    home = folder / "home"
    home.mkdir()
    settings = Settings(home, url, "curator", artifacts, policy=OPEN, index=engines.index)
    registry = Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(artifacts, home / "tmp"))
    yield registry
    registry.catalog.close()


@pytest.mark.parametrize("name", OTHERS)
def test_every_engine_gives_the_same_answers(
    request: pytest.FixtureRequest, tmp_path: Path, loras: Path, plainly: dict[str, Any], name: str
) -> None:
    engines = OTHERS[name]
    for module in engines.needs:
        pytest.importorskip(module)
    url = str(request.getfixturevalue("sqlite_url" if engines.database == "sqlite" else "postgres_url"))
    artifacts = {"folder": str(tmp_path / "home" / "artifacts"), "memory": f"memory://{uuid.uuid4().hex}"}.get(
        engines.artifacts
    ) or f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
    with opened(engines, url, tmp_path, artifacts) as registry:
        told = played(registry, loras)
    for what, expected in plainly.items():
        assert told[what] == expected, what
    assert told["erased"]["person-2"] == "NotFound" != told["withdrawn"]["person-2"]
    assert told["swept"][0] == 1
