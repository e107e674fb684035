"""A small registry with a gallery before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from tests.services.world import BASE, make_world
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import NotFound
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis.engine import WarmEngine
from w2w_registry.settings import Settings
from w2w_registry.space.basis import WeightSpace
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app
from w2w_registry.web.limits import Limits

TOKEN = "a-token-for-tests-0123456789"
HOST = "127.0.0.1:8765"
ORIGIN = f"http://{HOST}"
COUNT = 50
Build = Callable[..., FastAPI]


class NoModel(WarmEngine):
    """No base model is at hand, and none is looked for on the network."""

    def open(self, registry: Registry, space: WeightSpace) -> Any:
        raise NotFound(what="base model", name=space.base_model)


@pytest.fixture(scope="session")
def filled_home(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty people in a space, the first ten with pictures."""
    import shutil

    folder = tmp_path_factory.mktemp("gallery")
    loras = make_world(COUNT).write(folder / "loras", range(COUNT))
    for i in range(10):
        Image.new("RGB", (40, 40), (i * 20, 80, 160)).save(loras / f"p{i:04d}" / "preview.png")
    (folder / "home").mkdir()
    shutil.copy(sqlite_template, folder / "home" / "catalog.db")
    registry = open_home(folder / "home")
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    add(registry, AddRequest(paths=(str(loras),), labels={"beard": 1.0}))
    registry.catalog.close()
    return folder


def open_home(home: Path) -> Registry:
    settings = Settings(
        home, f"sqlite:///{home}/catalog.db", "curator", str(home / "artifacts"), {"second_person": False}
    )
    return Registry(
        settings, Catalog(settings.database_url, event_hash=event_hash), ArtifactStore(str(home / "artifacts"))
    )


@pytest.fixture
def registry(filled_home: Path, tmp_path: Path) -> Iterator[Registry]:
    """The fifty people, in a copy of the test's own."""
    import shutil

    shutil.copytree(filled_home / "home", tmp_path / "home")
    opened = open_home(tmp_path / "home")
    yield opened
    opened.catalog.close()


@pytest.fixture
def build(registry: Registry) -> Build:
    """Make the application over the registry, with some of its options."""

    def make(limits: Limits | None = None, **access: object) -> FastAPI:
        who = Access(TOKEN, "curator", **access)  # type: ignore[arg-type]
        return create_app(registry, who, frozenset({HOST}), limits=limits, engine=NoModel())

    return make


@pytest.fixture
def app(build: Build) -> FastAPI:
    return build()


@pytest.fixture
def stranger(app: FastAPI) -> TestClient:
    """A browser that was never let in."""
    return TestClient(app, base_url=ORIGIN, follow_redirects=False)


@pytest.fixture
def browser(app: FastAPI) -> TestClient:
    """A browser that opened the printed address."""
    return enter(app)


@pytest.fixture
def program(app: FastAPI) -> TestClient:
    """A program with the token."""
    return TestClient(app, base_url=ORIGIN, headers={"authorization": f"Bearer {TOKEN}"}, follow_redirects=False)


def enter(app: FastAPI) -> TestClient:
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    client.get(f"/?token={TOKEN}")
    return client


def csrf_of(client: TestClient) -> str:
    """The CSRF token a page of this session carries."""
    import re

    found = re.search(r'data-csrf="([0-9a-f]+)"', client.get("/").text)
    assert found is not None
    return found[1]
