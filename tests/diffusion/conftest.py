from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.diffusion import tiny
from w2w_registry.diffusion.pipeline import DiffusionModel, load_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("pipelines")

    @cache
    def folder(kind: str) -> Path:
        return tiny.build(kind, root)

    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Callable[[str], Path]) -> Callable[[str], DiffusionModel]:
    @cache
    def model(kind: str) -> DiffusionModel:
        return load_model(tiny_folder(kind), device="cpu")

    return model
