"""The gallery at size: its first page, a page deep in the list, searches, and fifty people at once.

A page is timed at the server: from the request to the last byte, everything included (guard, catalog, template).
The deep page's peer is the same page by OFFSET, which reads and throws away all before it; the first page's is a page
one five-hundredth of the way down by key: the two should cost the same.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi.testclient import TestClient
from sqlalchemy import insert, select

from benchmarks.bench_catalog import BATCH, fill
from benchmarks.frame import Row, side_by_side
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.engine import WRITE, make_engine, parse_url
from w2w_registry.catalog.models import Identity, Label, Version
from w2w_registry.catalog.rows import table_of
from w2w_registry.catalog.session import Catalog
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app
from w2w_registry.web.guard import Limits

TOKEN = "benchmark-token-0123456789"
HOST = "127.0.0.1:8765"
PAGE = 60
USERS = 50


def rows(small: bool) -> Iterator[Row]:
    """Pages of 100,000 identities (10,000 when small), then fifty people who browse for a while."""
    count, rounds = (10_000, 10) if small else (100_000, 40)
    with tempfile.TemporaryDirectory() as folder:
        registry = populate(Path(folder), count)
        client = TestClient(
            create_app(registry, Access(TOKEN, "bench"), frozenset({HOST}), limits=Limits(rate=1e6, burst=10**6)),
            base_url=f"http://{HOST}",
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        yield from pages(registry, client, count, rounds)
        yield crowd(client, count, rounds)
        registry.catalog.close()


def populate(folder: Path, count: int) -> Registry:
    """A registry of ``count`` people with two labels each, written past the services for speed."""
    url = f"sqlite:///{folder}/catalog.db"
    schema.upgrade(url)
    engine = make_engine(parse_url(url))
    with engine.connect() as connection:
        connection.execution_options(**{WRITE: True})
        with connection.begin():
            fill(connection, count - 1, 1)
            for start in range(1, count + 1, BATCH):
                labels = [
                    {"version_id": i, "name": name, "number": (i * step % 997) / 997, "salt": b"0" * 16}
                    for i in range(start, min(count, start + BATCH - 1) + 1)
                    for name, step in (("beard", 7), ("age", 31))
                ]
                connection.execute(insert(table_of(Label)), labels)
    engine.dispose()
    settings = Settings(folder, url, "bench", str(folder / "artifacts"))
    return Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))


def pages(registry: Registry, client: TestClient, count: int, rounds: int) -> Iterator[Row]:
    """Server time of pages at the top, in the middle and near the end."""
    deep = count * 9 // 10 // PAGE
    cold = taken(client, "/")
    first = [taken(client, "/") for _ in range(rounds)]
    times = sorted(spent.wall for spent in first)
    size = {"identities": count, "bytes": first[0].size}
    p95 = times[int(0.95 * (len(times) - 1))]
    yield Row(
        "gallery: first page, p95",
        p95,
        None,
        "",
        {"median": statistics.median(times), "CPU": median_cpu(first), "cold CPU": cold.cpu},
        size,
    )
    jump = taken(client, f"/?page={deep}")
    again = [taken(client, f"/?page={deep}") for _ in range(5)]

    def by_key() -> None:
        taken(client, f"/?page={deep}")

    def by_offset() -> None:
        offset(registry, (deep - 1) * PAGE)

    ours, peer = side_by_side(by_key, by_offset, repeats=5)
    yield Row(
        f"gallery: page {deep:,}",
        ours,
        peer,
        "its rows alone by OFFSET",
        {"first jump": jump.wall, "first jump CPU": jump.cpu, "CPU": median_cpu(again)},
        size,
    )
    for name, path in {
        "newest first": "/?sort=-created",
        "filtered": "/?where=beard > 0.5 and kind = person",
        "sorted by a label": "/?sort=-label.beard",
        "API, 60 rows": "/api/v1/identities",
    }.items():
        cold = taken(client, path)
        again = [taken(client, path) for _ in range(3)]
        spent = {"CPU": median_cpu(again), "cold CPU": cold.cpu}
        wall = statistics.median(one.wall for one in again)
        yield Row(f"gallery: {name}", wall, None, "", spent, {"identities": count})


def offset(registry: Registry, skip: int) -> None:
    """The rows of a deep page as OFFSET finds them."""
    with registry.catalog.read() as session:
        query = select(Version, Identity).join(Version.identity).order_by(Identity.name).offset(skip).limit(PAGE)
        assert len(session.execute(query).all()) == PAGE


@dataclass(frozen=True)
class Spent:
    """One answer: seconds by the clock, seconds of this process's work (what other load cannot change), and bytes."""

    wall: float
    cpu: float
    size: int


def taken(client: TestClient, path: str) -> Spent:
    """Ask for a page and see what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return Spent(time.perf_counter() - wall, time.process_time() - cpu, len(answer.content))


def median_cpu(answers: list[Spent]) -> float:
    return statistics.median(one.cpu for one in answers)


def crowd(client: TestClient, count: int, rounds: int) -> Row:
    """Fifty people who each look at pages, one after another, half a second apart."""
    paths = ["/", "/?page=100", "/identities/p0000100", "/?where=kind = person", "/api/v1/identities?limit=60"]
    times: list[float] = []
    lock = threading.Lock()

    def person(number: int) -> Callable[[], None]:
        def browse() -> None:
            for i in range(max(3, rounds // 10)):
                spent = taken(client, paths[(number + i) % len(paths)])
                with lock:
                    times.append(spent.wall)
                time.sleep(0.5)

        return browse

    work = [person(number) for number in range(USERS)]
    cpu = time.process_time()
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    each = (time.process_time() - cpu) / max(1, len(times))
    errors = USERS * max(3, rounds // 10) - len(times)
    return Row(
        "gallery: fifty people, p95",
        times[int(0.95 * (len(times) - 1))],
        None,
        "",
        {"median": statistics.median(times), "errors": errors, "CPU a page": each},
        {"identities": count, "people": USERS},
    )
