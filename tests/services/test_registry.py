"""Opening a registry when something about its home is wrong: lost catalogs, full disks, folders nobody may write."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.small import Small
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import engine
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import CatalogLost, RegistryError, SettingError, StorageError
from w2w_registry.messages import message
from w2w_registry.services.audit import log
from w2w_registry.services.identities.browsing import browse
from w2w_registry.services.identities.manage import show
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.services.search.query import search
from w2w_registry.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    return Settings(home, f"sqlite:///{home}/catalog.db", "curator", str(home / "artifacts"))


@pytest.fixture
def filled(settings: Settings) -> Settings:
    """A registry with one identity, closed."""
    init_registry(settings)
    catalog = Catalog(settings.database_url, event_hash=event_hash)
    Small(catalog, settings.home.parent).add("a", "s1")
    catalog.close()
    return settings


@pytest.mark.parametrize("loss", ["emptied", "deleted"])
def test_a_lost_catalog_is_not_made_anew(filled: Settings, loss: str) -> None:
    database = filled.home / "catalog.db"
    if loss == "emptied":
        database.write_bytes(b"")
    else:
        database.unlink()
    for attempt in (lambda: open_registry(filled).__enter__(), lambda: init_registry(filled)):
        with pytest.raises(CatalogLost) as caught:
            attempt()
        assert "backup" in message(caught.value)
        assert "init" not in message(caught.value)
    assert not database.exists() or database.stat().st_size == 0


def test_a_new_home_beside_artifacts_kept_elsewhere_is_no_loss(filled: Settings, tmp_path: Path) -> None:
    other = replace(filled, home=tmp_path / "other", database_url=f"sqlite:///{tmp_path}/other/catalog.db")
    assert init_registry(other).created


def test_a_full_disk_is_said_and_reading_goes_on(filled: Settings) -> None:
    with open_registry(filled) as registry:
        with registry.catalog.read() as session:
            pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()
        with registry.catalog.write("x") as uow:
            # as full as a disk can be: the file may not grow by a page
            uow.session.connection().exec_driver_sql(f"PRAGMA max_page_count={pages}")
            with pytest.raises(StorageError) as caught, registry_errors(registry):
                uow.session.connection().exec_driver_sql("CREATE TABLE more AS SELECT randomblob(9000000) AS x")
        assert "full" in message(caught.value)
        assert [row["identity"] for row in browse(registry)] == ["a"]


def registry_errors(registry: Registry) -> AbstractContextManager[None]:
    return engine.database_errors(engine.parse_url(registry.settings.database_url))


def test_a_home_that_nobody_may_write_is_read(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive on a NAS or a CD: nothing can be made beside the catalog, not even SQLite's own log."""
    may = os.access
    # for root, who runs some people's tests, every folder is writable
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))
    (filled.home / "index").write_bytes(b"")  # nor can an index be kept
    for path in (filled.home, *filled.home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = sorted(filled.home.rglob("*"))
        with open_registry(filled) as registry:
            assert [row["identity"] for row in browse(registry)] == ["a"]
            assert show(registry, "a")["version"] == 1
            assert [hit.identity for hit in search(registry, "a").results] == ["a"]
            assert log.verify(registry).ok
            assert sorted(filled.home.rglob("*")) == before
            with pytest.raises(RegistryError), registry.catalog.write("x") as uow:
                uow.event("nothing")
    finally:
        for path in (filled.home, *filled.home.rglob("*")):
            path.chmod(0o755)


def test_a_key_file_is_whole_or_not_there(filled: Settings) -> None:
    with open_registry(filled) as registry:
        keys = filled.home / "keys"
        keys.mkdir(mode=0o700)
        (keys / "audit.key").write_bytes(b"")  # a crash of an older release, before anything was signed
        log.checkpoint(registry)
        key = (keys / "audit.key").read_text()
        assert len(bytes.fromhex(key)) == 32
        assert (keys / "audit.key").stat().st_mode & 0o077 == 0
        assert [p.name for p in sorted(keys.iterdir())] == ["audit.key", "audit.pub"]
        for broken in ("", key[:20], "not hexadecimal"):
            (keys / "audit.key").write_text(broken)
            with pytest.raises(SettingError) as caught:
                log.checkpoint(registry)
            assert "backup" in message(caught.value)
            assert (keys / "audit.key").read_text() == broken
        # With another key the checkpoints there are would be taken for a forger's, so none is made.
        for lost in ("audit.key", "audit.pub"):
            (keys / lost).unlink()
            with pytest.raises(SettingError) as caught:
                log.checkpoint(registry)
            assert "backup" in message(caught.value)
            assert not (keys / "audit.key").exists()


def test_a_database_that_is_no_database_is_said_so(filled: Settings) -> None:
    (filled.home / "catalog.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Exception, match="not a database"), open_registry(filled) as registry:
        browse(registry)
