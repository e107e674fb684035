from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from w2w_registry.index import store
from w2w_registry.index.factory import open_index
from w2w_registry.index.milvus import MilvusTarget
from w2w_registry.index.protocol import VectorIndex

NEEDS = {"exact": (), "faiss": ("faiss",), "milvus": ("pymilvus", "milvus_lite")}


def need(kind: str) -> None:
    for module in NEEDS[kind]:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> MilvusTarget:
    """One local file for the whole run: Milvus Lite starts a server for each."""
    need("milvus")
    return MilvusTarget(str(tmp_path_factory.mktemp("milvus") / "index.db"))


@pytest.fixture(params=["exact", "faiss", "milvus"])
def kind(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


@pytest.fixture
def target(request: pytest.FixtureRequest, kind: str) -> MilvusTarget | None:
    return request.getfixturevalue("milvus") if kind == "milvus" else None


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    return store.folder_for(tmp_path, tmp_path.name, "metric", kind)


@pytest.fixture
def empty(kind: str, folder: Path, target: MilvusTarget | None) -> Callable[[int], VectorIndex]:
    """A new, empty index of each kind."""
    return lambda dim: open_index(kind, dim=dim, folder=folder, milvus=target)
