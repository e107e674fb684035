"""The gallery at size: its first page, a page deep in the list, searches, and fifty people at once beside an `add`.

A page is timed at the server: from the request to the last byte, everything included (guard, catalog, template).
The deep page's peer is the same page by OFFSET, which reads and throws away all before it.

The fifty people come over HTTP from a process of their own (``benchmarks/crowd.py``) to `w2w-reg serve` as it ships,
behind a proxy's header as a team would, while `w2w-reg add` takes in 10,000 LoRAs: at the pace of people who look at
what they are shown, until everything is added; then without it, and in a closed loop without a pause. At full size
the CPU time of all of it is about five minutes of two cores.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy import insert, select

from benchmarks import bench_catalog
from benchmarks.bench_catalog import BATCH, parents_of
from benchmarks.crowd import Plan, address
from benchmarks.frame import Row, side_by_side
from tests.services.world import BASE, make_world
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.engine import WRITE, make_engine, parse_url
from w2w_registry.catalog.models import Coordinates, Identity, Label, Version
from w2w_registry.catalog.rows import table_of
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.vectors import pack, unpack
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.settings import Settings
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app
from w2w_registry.web.limits import Limits

TOKEN = "benchmark-token-0123456789"
HOST = "127.0.0.1:8765"
PAGE = 60
USERS = 50
THINK = 7.0  # seconds in the mean, as in TPC-W
FITTED = 80
FIRST = 1_000  # the first id of those written past the services


def rows(small: bool) -> Iterator[Row]:
    """Pages of 100,000 identities (10,000 when small), then fifty people who browse for a while."""
    count, rounds = (10_000, 10) if small else (100_000, 40)
    with tempfile.TemporaryDirectory() as folder:
        registry = populate(Path(folder), count)
        client = client_of(registry)
        yield from pages(registry, client, count, rounds)
        registry.catalog.close()
        yield from crowds(Path(folder), count, small=small)


def client_of(registry: Registry) -> TestClient:
    """Somebody who may see a registry's pages, with no limit on how many a second."""
    return TestClient(
        create_app(registry, Access(TOKEN, "bench"), frozenset({HOST}), limits=Limits(rate=1e6, burst=10**6)),
        base_url=f"http://{HOST}",
        headers={"authorization": f"Bearer {TOKEN}"},
    )


def populate(folder: Path, count: int) -> Registry:
    """A registry of ``count`` people with two labels each in a space fitted on eighty, written past the services for
    speed; everybody has a picture."""
    url = f"sqlite:///{folder}/catalog.db"
    schema.upgrade(url)
    settings = Settings(folder, url, "bench", str(folder / "artifacts"))
    registry = Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))
    loras = make_world().write(folder / "loras", range(FITTED))
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras)]))
    pictures = [registry.artifacts.put(png(i)) for i in range(8)]
    with registry.catalog.read() as session:
        known = session.scalars(select(Coordinates)).all()
        matrix = np.stack([unpack(one.data) for one in known])
    centre, spread = matrix.mean(0), matrix.std(0)
    registry.catalog.close()
    engine = make_engine(parse_url(url))
    rng, chance = np.random.default_rng(1), random.Random(1)
    with engine.connect() as connection:
        connection.execution_options(**{WRITE: True})
        with connection.begin():
            for start in range(FIRST, FIRST + count, BATCH):
                stop = min(FIRST + count, start + BATCH)
                found = bench_catalog.rows(
                    start, stop, lambda number: [FIRST - 1 + p for p in parents_of(number - FIRST + 1, chance)]
                )
                for version in found[Version]:
                    version["preview_digest"] = pictures[version["id"] % len(pictures)]
                points = (centre + spread * rng.standard_normal((stop - start, matrix.shape[1]))).astype(np.float32)
                packed = [pack(point) for point in points]
                found[Coordinates] = [
                    {"space_id": 1, "version_id": start + i, "k": points.shape[1], "digest": digest, "data": data}
                    for i, (data, digest) in enumerate(packed)
                ]
                found[Label] = [
                    {"version_id": i, "name": name, "number": (i * step % 997) / 997, "salt": b"0" * 16}
                    for i in range(start, stop)
                    for name, step in (("beard", 7), ("age", 31))
                ]
                for model, values in found.items():
                    if values:
                        connection.execute(insert(table_of(model)), values)
    engine.dispose()
    shutil.rmtree(settings.index_dir, ignore_errors=True)  # it is made again, with everybody in it
    return registry


def png(number: int) -> bytes:
    """A small picture."""
    from PIL import Image

    stream = io.BytesIO()
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).resize((256, 256)).save(stream, "PNG")
    return stream.getvalue()


def pages(registry: Registry, client: TestClient, count: int, rounds: int) -> Iterator[Row]:
    """Server time of pages at the top, in the middle and near the end."""
    deep = count * 9 // 10 // PAGE
    cold = taken(client, "/")
    first = [taken(client, anew("/", i)) for i in range(rounds)]
    kept = [taken(client, "/") for _ in range(rounds)]
    times = sorted(spent.wall for spent in first)
    size = {"identities": count, "bytes": first[0].size}
    yield Row(
        "gallery: first page, p95",
        at(times, 0.95),
        None,
        "",
        {
            "median": statistics.median(times),
            "CPU": median_cpu(first),
            "kept": statistics.median(one.wall for one in kept),
            "cold CPU": cold.cpu,
            "holds": holds(at(times, 0.95) <= 0.15 and first[0].size <= 200_000),
        },
        size,
    )
    jumps = [taken(client, f"/?page={deep - i}") for i in range(rounds)]
    again = [taken(client, f"/?page={deep}") for _ in range(5)]
    middle = [taken(client, f"/?page={count // 2 // PAGE - i}") for i in range(rounds)]
    slowest = max(at(sorted(one.wall for one in some), 0.95) for some in (jumps, middle))

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
        {
            "jump p95": at(sorted(one.wall for one in jumps), 0.95),
            "jump CPU": median_cpu(jumps),
            "to the middle p95": at(sorted(one.wall for one in middle), 0.95),
            "to the middle CPU": median_cpu(middle),
            "first jump": jumps[0].wall,
            "again CPU": median_cpu(again),
            "holds": holds(slowest <= 0.2),
        },
        size,
    )
    for name, path in {
        "newest first": "/?sort=-created",
        "filtered": "/?where=beard > 0.5 and kind = person",
        "sorted by a label": "/?sort=-label.beard",
        "API, 60 rows": "/api/v1/identities",
    }.items():
        cold = taken(client, path)
        again = [taken(client, anew(path, i)) for i in range(5)]
        spent = {"CPU": median_cpu(again), "cold CPU": cold.cpu}
        wall = statistics.median(one.wall for one in again)
        yield Row(f"gallery: {name}", wall, None, "", spent, {"identities": count})


def anew(path: str, number: int) -> str:
    """The same page by an address that nobody asked for yet, so that it is made rather than given again."""
    return f"{path}{'&' if '?' in path else '?'}asked={number}"


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


# -- fifty people ------------------------------------------------------------------------------------
def places(count: int) -> dict[str, tuple[float, list[str]]]:
    """Where people go, and how often: twenty visits in a hundred ask who somebody is, fifteen filter."""
    some = random.Random(2).sample(range(FIRST, FIRST + count), SEEN)
    names = [f"p{number:07}" for number in some]
    deep = random.Random(3).sample(range(2, max(3, count // PAGE)), SEEN // 3)
    return {
        "first page": (0.2, ["/"]),
        "a page": (
            0.15,
            [address("/", page=str(number)) for number in deep],
        ),
        "filtered": (
            0.15,
            [address("/", where=f"beard > 0.{n} and kind = person", sort=sort) for n in range(10) for sort in SORTS],
        ),
        "an identity": (0.2, [f"/identities/{name}" for name in names]),
        "who is this?": (0.2, [address("/who", name=name) for name in names]),
        "API, list": (0.1, [address("/api/v1/identities", where=f"age > 0.{n}", limit="60") for n in range(10)]),
    }


SEEN = 30
SORTS = ("name", "-created")


def crowds(folder: Path, count: int, *, small: bool) -> Iterator[Row]:
    """Fifty people at the shipped server while the shipped `add` runs: at a human pace, then in a closed loop."""
    added = 1_000 if small else 10_000
    loras = make_world(FITTED + added).write(folder / "new", range(FITTED, FITTED + added))
    settings = '[web]\nuser_header = "X-Forwarded-User"\nproxies = ["127.0.0.1"]\ndefault_role = "viewer"\n'
    (folder / "registry.toml").write_text(settings)
    with served(folder) as (port, pid):
        plan = Plan("127.0.0.1", port, USERS, 0.0, 0.0, places(count), tour=True)
        asked(folder, plan)  # every place was seen before: its pictures are marked and on record
        plan = replace(plan, tour=False)
        before = memory(pid)
        adding = Beside([*COMMAND, "--home", str(folder), "--actor", "bench", "add", str(loras), "--yes"])
        threading.Thread(target=lambda: (adding.wait(), (folder / "added").touch()), daemon=True).start()
        human = replace(plan, think=THINK, seconds=20.0 if small else 120.0, seed=3, until=str(folder / "added"))
        yield crowd_row("at a human pace beside `add`", human, watched(folder, human, pid), adding, pid, before, count)
        human = replace(human, seconds=10.0 if small else 40.0, seed=4, until=None)
        yield crowd_row("at a human pace", human, watched(folder, human, pid), adding, pid, before, count)
        closed = replace(plan, seconds=5.0 if small else 20.0, seed=2)
        yield crowd_row("closed loop", closed, watched(folder, closed, pid), adding, pid, before, count)
        adding.stop()


def crowd_row(name: str, plan: Plan, seen: dict[str, Any], adding: Beside, pid: int, before: float, count: int) -> Row:
    pages = sorted(t for kind, times in seen["times"].items() if kind != "picture" for t in times)
    quality: dict[str, Any] = {"median": statistics.median(pages), "errors": seen["failed"]}
    quality |= {f"p95 {kind}": at(sorted(times), 0.95) for kind, times in sorted(seen["times"].items())}
    quality |= {"answers": len(pages), "pictures": len(seen["times"].get("picture", ()))}
    quality |= {
        "beside": "add running still" if adding.running else "add ended",
        "MB at quarters": " ".join(f"{one:.0f}" for one in quarters(seen["memory"])),
        "MB before": before,
    }
    grown = growth(seen["memory"])
    good = at(pages, 0.95) <= 0.5 and not seen["failed"] and grown <= 0.05
    quality |= {"grown in the second half": grown, "holds": holds(good) if plan.think else "no target"}
    quality |= {"load": os.getloadavg()[0]}
    if seen["errors"]:
        quality["first error"] = seen["errors"][0]
    size = {"identities": count, "people": USERS, "think s": plan.think}
    return Row(f"gallery: fifty people, {name}, p95", at(pages, 0.95), None, "", quality, size)


def at(times: list[float], share: float) -> float:
    return times[int(share * (len(times) - 1))]


COMMAND = (sys.executable, "-c", "from w2w_registry.cli.app import main; main()")


class Beside:
    """A command that runs meanwhile."""

    def __init__(self, words: list[str]) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the command
        self._process = subprocess.Popen(words, stdout=self._said, stderr=subprocess.STDOUT)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        return self._process.wait()

    def stop(self) -> None:
        """Let it go when it still runs; it must not have failed."""
        if self.running:
            self._process.terminate()
        elif self.wait() != 0:
            raise AssertionError(self.said())
        self.wait()

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read()[-2000:]


@contextmanager
def served(home: Path) -> Iterator[tuple[int, int]]:
    """`w2w-reg serve` over a registry: its port and its process."""
    words = [*COMMAND, "--home", str(home), "serve", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield int(url.rstrip("/").rpartition(":")[2]), process.pid
    finally:
        process.terminate()
        process.wait(30)


def asked(folder: Path, plan: Plan) -> dict[str, Any]:
    """What a crowd saw, from a process of its own."""
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    words = [sys.executable, "-m", "benchmarks.crowd", str(folder / "plan.json")]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def watched(folder: Path, plan: Plan, pid: int) -> dict[str, Any]:
    """What a crowd saw, and under ``memory`` what the server held every second meanwhile."""
    held, over = [memory(pid)], threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            held.append(memory(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        return {**asked(folder, plan), "memory": held}
    finally:
        over.set()
        thread.join()


def quarters(held: list[float]) -> list[float]:
    """What was held at the end of each quarter of a time."""
    return [held[len(held) * i // 4 - 1] for i in range(1, 5)] if len(held) >= 4 else held


def growth(held: list[float]) -> float:
    """By which share the most held in the last quarter exceeds the most held in the one before it."""
    size = max(1, len(held) // 4)
    return max(held[-size:]) / max(held[-2 * size : -size] or held) - 1


def holds(good: bool) -> str:
    return "yes" if good else "NO"


def memory(pid: int) -> float:
    """Megabytes that a process and its children hold by themselves and together (PSS), as Linux counts them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(pss(one) for one in [str(pid), *children])


def pss(pid: str) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024
