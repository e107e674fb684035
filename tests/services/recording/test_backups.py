"""A registry in one file and out of it; a catalog in another database: everything arrives as it was, or nothing."""

from __future__ import annotations

import fcntl
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.world import BASE, World
from w2w_registry.consent.records import Scope
from w2w_registry.errors import BadFile, Conflict, IntegrityError, UsageError
from w2w_registry.services.audit.log import verify
from w2w_registry.services.consent import amendments, grants
from w2w_registry.services.identities import browsing, bulk, ingest, manage
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.recording import backups
from w2w_registry.services.registry import Registry, open_registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.settings import Settings, load_settings


@pytest.fixture
def filled(registry: Registry, world: World, tmp_path: Path) -> Registry:
    folder = world.write(tmp_path / "loras", range(6))
    fit_space(registry, "tiny", [str(folder)], base_model=BASE)
    ingest.add(registry, AddRequest([str(folder)], subjects=["s-1"]))
    bulk.rate(registry, ["p0001"], 4, favourite=True)
    grants.grant(registry, "s-2", Scope(purposes=("research",)))
    for n in range(8):  # each record supersedes the one before, and ids say nothing of the order
        amendments.narrow(registry, "s-2", lambda scope, n=n: replace(scope, forbidden=(*scope.forbidden, f"x{n}")))
    elsewhere = '[database]\nurl = "postgresql://u:secret@db/live"\n\n[artifacts]\nurl = "s3://bucket/live"\n'
    elsewhere += '\n[index]\nkind = "milvus"\nurl = "milvus://vectors:19530"\n'
    (registry.settings.home / "registry.toml").write_text(f"[web]\nread_only = true\n\n{elsewhere}")
    (registry.settings.home / "keys").mkdir(parents=True)
    (registry.settings.home / "keys" / "own.pem").write_text("secret")
    return registry


def home_of(folder: Path) -> Settings:
    return Settings(folder, f"sqlite:///{folder}/catalog.db", "curator", str(folder / "artifacts"), {"space_people": 2})


def test_what_went_in_comes_out(filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From either database; the restored registry holds, and is the same."""
    done = backups.backup(filled, tmp_path / "b.tar")
    assert done.missing == ()
    assert (tmp_path / "b.tar").stat().st_mode & 0o077 == 0
    with pytest.raises(Conflict):
        backups.backup(filled, tmp_path / "b.tar")
    with pytest.raises(UsageError):
        backups.backup(filled, filled.settings.home / "b.tar")
    with monkeypatch.context() as patched:
        access, home = os.access, filled.settings.home  # which is read-only
        patched.setattr(os, "access", lambda path, mode: path != home and access(path, mode))
        patched.setattr(type(filled.settings), "temporary_dir", property(lambda _: tmp_path / "b.tar" / "none"))
        assert backups.backup(filled, tmp_path / "c.tar").files == done.files
    settings = home_of(tmp_path / "restored")
    assert backups.restore(settings, tmp_path / "b.tar", perform=False).files == done.files
    assert not settings.home.exists()
    done = backups.restore(settings, tmp_path / "b.tar")
    assert done.left_out == ("database.url", "artifacts.url", "index.url")
    plain = load_settings(settings.home)  # the copies are used, not what was backed up
    assert (plain.database_url, plain.artifacts_url) == (settings.database_url, settings.artifacts_url)
    assert (plain.web, plain.index) == ({"read_only": True}, {})
    assert (settings.home / "keys" / "own.pem").stat().st_mode & 0o077 == 0
    with open_registry(settings) as restored:
        assert verify(restored).ok
        assert browsing.browse(restored) == browsing.browse(filled)
        digest = manage.show(filled, "p0001")["model_digest"]
        assert manage.show(restored, "p0001")["model_digest"] == digest
        ingest.add(restored, AddRequest([str(tmp_path / "loras")]))
    with pytest.raises(Conflict):
        backups.restore(settings, tmp_path / "b.tar")


def test_what_a_killed_process_left_goes(filled: Registry, tmp_path: Path) -> None:
    """A copy of everybody's models and of the keys stays nowhere; what a running process makes does."""
    settings = home_of(tmp_path / "restored")
    for name in (".b.tar.0123abcd", ".b.tar.mine"):
        (tmp_path / name).write_text("keys")
    for name in (".restored.0123abcd", ".restored.4567cdef"):
        (tmp_path / name / "keys").mkdir(parents=True)
    descriptor = os.open(tmp_path / ".restored.4567cdef", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    backups.backup(filled, tmp_path / "b.tar")
    backups.restore(settings, tmp_path / "b.tar")
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".b.tar.mine", ".restored.4567cdef"]
    os.close(descriptor)


def test_a_damaged_backup_makes_nothing(filled: Registry, tmp_path: Path) -> None:
    backups.backup(filled, tmp_path / "b.tar")
    whole = (tmp_path / "b.tar").read_bytes()
    settings = home_of(tmp_path / "restored")
    place = whole.index(b"secret")
    for name, data, error in (
        ("changed", whole[:place] + b"SECRET" + whole[place + 6 :], IntegrityError),
        ("cut", whole[: len(whole) // 2], BadFile),
        ("other", b"no tar at all", BadFile),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error):
            backups.restore(settings, tmp_path / name)
        assert not settings.home.exists()
    with tarfile.open(tmp_path / "evil", "w") as tar:
        tar.add(tmp_path / "other", "artifacts/../../evil")
    with pytest.raises(BadFile, match="does not belong in a backup"):
        backups.restore(settings, tmp_path / "evil")


@pytest.mark.parametrize(
    "written",
    [
        'database.url = "postgresql://u:secret@db/live"\nindex.url = "milvus://vectors:1"\n\n[web]\nread_only = true\n',
        'database = { url = "postgresql://u:secret@db/live" }\n"index" = {kind = "milvus", uri = "x"}\n',
        '["database"]\n"url" = "postgresql://u:secret@db/live"\n[ index ]\nkind = "milvus"\nuri = "x"\n',
    ],
)
def test_addresses_are_left_out_however_they_are_written(filled: Registry, tmp_path: Path, written: str) -> None:
    (filled.settings.home / "registry.toml").write_text(written)
    backups.backup(filled, tmp_path / "b.tar")
    settings = home_of(tmp_path / "restored")
    assert len(backups.restore(settings, tmp_path / "b.tar").left_out) == 2
    plain = load_settings(settings.home)
    assert (plain.database_url, dict(plain.index)) == (settings.database_url, {})


def test_an_address_that_cannot_be_taken_out_restores_nothing(filled: Registry, tmp_path: Path) -> None:
    (filled.settings.home / "registry.toml").write_text('"data\\u0062ase".url = "postgresql://u:secret@db/live"\n')
    backups.backup(filled, tmp_path / "b.tar")
    settings = home_of(tmp_path / "restored")
    with pytest.raises(BadFile, match="cannot be taken out"):
        backups.restore(settings, tmp_path / "b.tar")
    assert not settings.home.exists()


def test_a_catalog_moves_between_databases(filled: Registry, tmp_path: Path, empty_postgres_url: str) -> None:
    """To PostgreSQL and on to SQLite: every digest is compared, and numbers go on where they were."""
    rows = backups.copy_to(filled, empty_postgres_url)["rows"]
    assert rows["version"] == 6
    with pytest.raises(Conflict, match="holds a registry already"):
        backups.copy_to(filled, empty_postgres_url)
    settings = filled.settings
    moved = Settings(settings.home, empty_postgres_url, "curator", settings.artifacts_url, settings.policy)
    with open_registry(moved) as there:
        assert verify(there).ok
        assert browsing.browse(there) == browsing.browse(filled)
        manage.set_tags(there, "p0002", ["team=ads"])
        assert backups.copy_to(there, f"sqlite:///{tmp_path}/back.db")["rows"]["event"] == rows["event"] + 1
