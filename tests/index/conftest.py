from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from w2w_registry.index import store
from w2w_registry.index.kinds import KINDS, PLACED_KINDS, placed_engine
from w2w_registry.index.milvus import MilvusEngine, collection_name
from w2w_registry.index.milvus_server import MilvusTarget
from w2w_registry.index.protocol import Engine, VectorIndex

NEEDS = {"faiss": ("faiss",), "milvus": ("pymilvus", "milvus_lite")}


def need(kind: str) -> None:
    for module in NEEDS.get(kind, ()):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> MilvusTarget:
    """One local file for the whole run: Milvus Lite starts a server for each."""
    need("milvus")
    return MilvusTarget(str(tmp_path_factory.mktemp("milvus") / "index.db"))


@pytest.fixture(params=KINDS[1:])
def kind(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


def engine_of(kind: str, folder: Path, milvus: MilvusTarget | None) -> Engine:
    """The engine that keeps an index of that kind in ``folder``, or in the collection named after it."""
    if kind == "milvus":
        assert milvus is not None
        return MilvusEngine(milvus, collection_name(folder))
    if kind in PLACED_KINDS:
        return placed_engine(kind).of({"kind": kind}, folder.parent, folder)
    return store.FolderEngine(folder, kind)


@pytest.fixture
def target(request: pytest.FixtureRequest, kind: str) -> MilvusTarget | None:
    return request.getfixturevalue("milvus") if kind == "milvus" else None


@pytest.fixture
def engine(tmp_path: Path, kind: str, target: MilvusTarget | None) -> Engine:
    return engine_of(kind, tmp_path / f"{tmp_path.name[-16:]}-metric-{kind}", target)


@pytest.fixture
def empty(engine: Engine) -> Callable[[int], VectorIndex]:
    """A new, empty index of each kind."""
    return engine.empty
