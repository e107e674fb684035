"""Opening a registry: settings, catalog and artifact store as one value that every service takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from w2w_registry.artifacts import ArtifactStore, write_atomic
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import NotInitialised, SchemaOutOfDate, StorageError
from w2w_registry.settings import POLICY_FILE, Settings

Progress = Callable[[int, int], None]
"""Called with (done, total) as long work goes on."""

DEFAULT_POLICY = """\
# What this registry allows. Everything here is optional; these are the defaults.

[policy]
# What may be done with the likeness of a subject who has not said yes or no: be taken in, made from
# photos, and found. Everything else (edit, mix, generate, export, publish) needs a consent record.
unknown = ["register", "search", "train", "invert"]

# What an operation is for when nothing else is said.
purpose = "research"
"""


@dataclass(frozen=True)
class Registry:
    """An open registry. Services take it as their first argument."""

    settings: Settings
    catalog: Catalog
    artifacts: ArtifactStore

    @property
    def actor(self) -> str:
        return self.settings.actor


def _no_progress(done: int, total: int) -> None:
    """The default :data:`Progress`: says nothing."""


no_progress: Progress = _no_progress


@contextmanager
def open_registry(settings: Settings) -> Iterator[Registry]:
    """Open an existing registry; its connections are closed at the end.

    Raises:
        NotInitialised: nothing was made here yet. SchemaOutOfDate: it was made by another release.
        DatabaseError: the database cannot be reached.
    """
    if not schema.exists(settings.database_url):
        raise NotInitialised(home=str(settings.home))
    found = schema.current(settings.database_url)
    if found != schema.head():
        raise SchemaOutOfDate(current=found, head=schema.head())
    catalog = Catalog(settings.database_url, event_hash=event_hash)
    try:
        yield Registry(settings, catalog, ArtifactStore(settings.artifacts_url))
    finally:
        catalog.close()


def init_registry(settings: Settings) -> dict[str, Any]:
    """Make the home folder, the catalog at the newest schema and registry.toml; on an existing registry, nothing."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        policy = settings.home / POLICY_FILE
        if not policy.exists():
            write_atomic(policy, DEFAULT_POLICY.encode())
    except OSError as error:
        raise StorageError(path=str(settings.home), reason=error.strerror or str(error)) from error
    created = schema.current(settings.database_url) is None if schema.exists(settings.database_url) else True
    if created:
        schema.upgrade(settings.database_url)
    return {"home": str(settings.home), **current_schema(settings), "created": created}


def upgrade_schema(settings: Settings) -> dict[str, Any]:
    """Bring an existing catalog to this release's schema."""
    if not schema.exists(settings.database_url):
        raise NotInitialised(home=str(settings.home))
    before = schema.current(settings.database_url)
    schema.upgrade(settings.database_url)
    return {**current_schema(settings), "before": before}


def current_schema(settings: Settings) -> dict[str, Any]:
    """The schema's revision and this release's; the database URL without its password."""
    exists = schema.exists(settings.database_url)
    return {
        "database": schema.without_password(settings.database_url),
        "schema": schema.current(settings.database_url) if exists else None,
        "head": schema.head(),
    }


def check_schema(settings: Settings) -> dict[str, Any]:
    """Differences between the database and what this release expects; empty when there are none."""
    if not schema.exists(settings.database_url):
        raise NotInitialised(home=str(settings.home))
    return {**current_schema(settings), "differences": list(schema.check(settings.database_url))}
