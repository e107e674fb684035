"""Registries that the tests of a file begin with: made once by services on each database, then copied."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from tests.conftest import admin
from w2w_registry.services.registry import Registry

SQLITE = "sqlite"


class Beginnings:
    """What ``build`` makes of an empty registry, by whatever name it is kept under in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, registry: Registry, name: str, build: Callable[[Registry], object]) -> None:
        """Have in an empty ``registry`` what ``build`` makes: made the first time, copied from then on."""
        url = make_url(registry.settings.database_url)
        kept = self.folder / f"{name}-{url.get_backend_name()}"
        registry.catalog.close()
        if (kept / "made").exists():
            self._copy(registry, kept)
            return
        build(registry)
        registry.catalog.close()
        for place, path in self._places(registry).items():
            if path.is_dir():
                shutil.copytree(path, kept / place)
        kept.mkdir(exist_ok=True)
        if url.get_backend_name() == SQLITE:
            _snapshot(Path(str(url.database)), kept / "catalog.db")
            (kept / "made").touch()
        else:
            template = f"{url.database}_kept"
            admin(_server(registry), f"CREATE DATABASE {template} TEMPLATE {url.database} STRATEGY file_copy")
            (kept / "made").write_text(template)

    def _copy(self, registry: Registry, kept: Path) -> None:
        url = make_url(registry.settings.database_url)
        for place, path in self._places(registry).items():
            if (kept / place).is_dir():
                shutil.copytree(kept / place, path, dirs_exist_ok=True)
        if url.get_backend_name() == SQLITE:
            shutil.copy(kept / "catalog.db", str(url.database))
        else:
            admin(_server(registry), f"DROP DATABASE {url.database} WITH (FORCE)")
            template = (kept / "made").read_text()
            admin(_server(registry), f"CREATE DATABASE {url.database} TEMPLATE {template} STRATEGY file_copy")

    @staticmethod
    def _places(registry: Registry) -> dict[str, Path]:
        return {"home": registry.settings.home, "artifacts": Path(registry.settings.artifacts_url)}


def _snapshot(database: Path, kept: Path) -> None:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(kept)) as target:
        source.backup(target)


def _server(registry: Registry) -> str:
    """The ``postgres`` database of the server, which no test uses."""
    url = registry.settings.database_url
    name = str(make_url(url).database)
    return url.replace(f"/{name}?", "/postgres?").replace("postgresql+psycopg://", "postgresql://")
