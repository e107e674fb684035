"""A registry on each database, and the made-up world of LoRAs on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.beginnings import Beginnings
from tests.services.world import World, make_world
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.session import Catalog
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def loras(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty LoRAs, one per identity."""
    return world.write(tmp_path_factory.mktemp("world") / "loras", range(80))


@pytest.fixture(scope="session")
def retrained(world: World, loras: Path) -> Path:
    """The first thirty identities trained again."""
    return world.write(loras.parent / "retrained", range(30), training=1)


@pytest.fixture(scope="session")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> Beginnings:
    return Beginnings(tmp_path_factory.mktemp("beginnings"))


@pytest.fixture
def registry(catalog_url: str, tmp_path: Path) -> Registry:
    settings = Settings(
        tmp_path / "home",
        catalog_url,
        "curator",
        str(tmp_path / "artifacts"),
        {"space_people": 2, "second_person": False},
    )
    catalog = Catalog(catalog_url, event_hash=event_hash)
    return Registry(settings, catalog, ArtifactStore(settings.artifacts_url))
