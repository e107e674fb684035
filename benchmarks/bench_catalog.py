"""The catalog at size: lineage among many versions, one block of many, adding many.

    python -m benchmarks.bench_catalog [--versions 1000000] [--block 10000] [--add 1000] [--family N …] [--url URL]
        [--json FILE]

Without ``--url`` a SQLite file in a temporary folder; with it an empty database of your own. The graph: two versions in
five are imported, the others are edits of one or (three in ten) mixes of two of the last 3,000, so that chains are long
and ancestries overlap; besides, ``--block`` versions descend from one. Times are of warm calls, all of the answer
fetched: wall clock, and beside it the CPU seconds, which say what the wall clock would without other load.
Lineage: the best of three calls; median and worst over ``--samples`` random versions. Beside them stand families of
``--family`` versions each, every one an edit of one or a mix of two of the 500 before it: down from the first, up from
the last, and the provenance graph that ``w2w-reg lineage --json`` prints of it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, insert, select

from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import lineage, schema
from w2w_registry.catalog.engine import WRITE, make_engine, parse_url
from w2w_registry.catalog.models import (
    Coordinates,
    Identity,
    InputKind,
    Label,
    Operation,
    OperationInput,
    SourceFile,
    Space,
    Version,
)
from w2w_registry.catalog.rows import table_of
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.vectors import pack
from w2w_registry.provenance.graph import Direction
from w2w_registry.records import Kind, VersionState
from w2w_registry.services.provenance.lineage import lineage_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 5000


def parents_of(number: int, rng: random.Random, reach: int = 3000) -> list[int]:
    """Version ids (below ``number``) that version ``number`` is made from: none, one or two."""
    if number < 100 or rng.random() < 0.4:
        return []
    count = 1 if rng.random() < 0.7 else 2
    return sorted({max(1, number - rng.randint(1, reach)) for _ in range(count)})


def rows(first: int, stop: int, parents: Callable[[int], Sequence[int]]) -> dict[type[Any], list[dict[str, Any]]]:
    """Rows of the versions ``first <= id < stop``."""
    found: dict[type[Any], list[dict[str, Any]]] = {Operation: [], Identity: [], Version: [], OperationInput: []}
    for number in range(first, stop):
        operation, above = str(uuid.uuid4()), parents(number)
        kind = "mix" if len(above) > 1 else "edit" if above else "import"
        found[Operation].append(
            {"id": operation, "kind": kind, "agent": "bench", "started_at": NOW, "code_version": "0"}
        )
        found[Identity].append({"id": number, "name": f"p{number:07}", "kind": Kind.PERSON, "created": NOW})
        found[Version].append(
            {
                "id": number, "identity_id": number, "number": 1, "model_digest": f"{number:064x}", "space_id": 1,
                "operation_id": operation, "base_model": "base", "created": NOW + timedelta(seconds=number // 50),
                "changed_seq": 0,
            }
        )  # fmt: skip
        found[OperationInput] += [
            {
                "operation_id": operation,
                "position": i,
                "role": "parent",
                "kind": InputKind.VERSION,
                "version_id": parent,
            }
            for i, parent in enumerate(above)
        ]
    return found


def fill(connection: Connection, versions: int, family: int, families: Sequence[int] = ()) -> dict[int, int]:
    """``versions`` of the random graph, then ``family`` versions that all descend from the first of them, then the
    families of edits and mixes; returns the first id of each of those by its size."""
    rng = random.Random(1)
    operation = {"id": "fit", "kind": "fit", "agent": "bench", "started_at": NOW, "code_version": "0"}
    connection.execute(insert(table_of(Operation)), operation)
    connection.execute(
        insert(table_of(Space)),
        {
            "id": 1, "name": "faces", "number": 1, "digest": "0" * 64, "base_model": "base", "layout_digest": "0" * 64,
            "layout": [], "dim": 10, "rank": 1, "alpha": 1.0, "components": 64, "artifact_digest": "0" * 64,
            "operation_id": "fit", "created": NOW,
        },
    )  # fmt: skip

    def family_parents(number: int) -> list[int]:
        return [] if number == versions + 1 else [rng.randint(max(versions + 1, number - 500), number - 1)]

    def mixed_in(first: int) -> Callable[[int], Sequence[int]]:
        def parents(number: int) -> Sequence[int]:
            near = range(max(first, number - 500), number)
            return sorted(rng.sample(near, min(len(near), rng.choice([1, 2, 2]))))

        return parents

    plans: list[tuple[int, int, Callable[[int], Sequence[int]]]] = [
        (1, versions + 1, lambda number: parents_of(number, rng)),
        (versions + 1, versions + family + 1, family_parents),
    ]
    firsts: dict[int, int] = {}
    for size in families:
        firsts[size] = plans[-1][1]
        plans.append((firsts[size], firsts[size] + size, mixed_in(firsts[size])))
    for first, stop, parents in plans:
        for start in range(first, stop, BATCH):
            for model, values in rows(start, min(stop, start + BATCH), parents).items():
                if values:
                    connection.execute(insert(table_of(model)), values)
    return firsts


@dataclass(frozen=True)
class Taken:
    wall: float
    cpu: float


def timed(call: Callable[[], Any]) -> tuple[Taken, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu), found


def measure_lineage(catalog: Catalog, versions: int, samples: int) -> dict[str, Any]:
    rng = random.Random(2)
    chosen = [rng.randint(1, versions) for _ in range(samples)]
    found: dict[str, Any] = {}
    walks: dict[str, Callable[..., Any]] = {
        "up": lambda session, version: lineage.ancestors(session, [version]).depth,
        "up, 5 steps": lambda session, version: lineage.ancestors(session, [version], depth=5).depth,
        "up, ids": lambda session, version: lineage.ancestor_ids(session, [version]),
        "down": lambda session, version: lineage.descendants(session, [version]).depth,
        "down, 5 steps": lambda session, version: lineage.descendants(session, [version], depth=5).depth,
        "down, ids": lambda session, version: lineage.descendant_ids(session, [version]),
    }
    with catalog.read() as session:
        for name, walk in walks.items():
            taken = []
            for version in chosen:
                runs = [timed(partial(walk, session, version)) for _ in range(3)]
                taken.append((min(run.wall for run, _ in runs), min(run.cpu for run, _ in runs), len(runs[0][1])))
            worst = max(taken)
            found[name] = {
                "median_ms": round(1000 * statistics.median(wall for wall, _, _ in taken), 2),
                "median_size": statistics.median(size for _, _, size in taken),
                "worst_ms": round(1000 * worst[0], 2),
                "worst_cpu_ms": round(1000 * worst[1], 2),
                "worst_size": worst[2],
            }
    return found


def measure_families(catalog: Catalog, firsts: dict[int, int]) -> list[dict[str, Any]]:
    """One row per family and way: how many versions and edges were found, and the best of five calls."""
    found: list[dict[str, Any]] = []
    with catalog.read() as session:
        for size, first in firsts.items():
            for way, walk, start in (
                ("down", lineage.descendants, first),
                ("up", lineage.ancestors, first + size - 1),
            ):
                runs = [timed(partial(walk, session, [start])) for _ in range(5)]
                row = {"family": size, "way": way, "versions": len(runs[0][1].depth), "edges": len(runs[0][1].edges)}
                row |= _best("", [run for run, _ in runs])
                ids = lineage.ancestor_ids if way == "up" else lineage.descendant_ids
                row |= _best("ids_", [timed(partial(ids, session, [start]))[0] for _ in range(5)])
                direction = Direction.UP if way == "up" else Direction.DOWN
                row |= _best("graph_", [timed(lambda: lineage_of(session, start, direction).to_json())[0]])  # noqa: B023
                found.append(row)
    return found


def _best(name: str, runs: Sequence[Taken]) -> dict[str, float]:
    best = min(runs, key=lambda run: run.wall)
    return {f"{name}ms": round(1000 * best.wall, 1), f"{name}cpu_ms": round(1000 * min(r.cpu for r in runs), 1)}


def block(catalog: Catalog, first: int) -> int:
    with catalog.write("bench") as uow:
        ids = lineage.descendant_ids(uow.session, [first])
        uow.bulk_update(Version, sorted(ids), {"state": VersionState.BLOCKED})
        uow.event("subject.block")
    return len(ids)


def add(catalog: Catalog, count: int, k: int = 64) -> None:
    data, digest = pack(np.zeros(k, np.float32))
    with catalog.write("bench") as uow:
        space = uow.session.get_one(Space, 1)
        for i in range(count):
            operation = Operation(id=str(uuid.uuid4()), kind="import", agent="bench", started_at=NOW, code_version="0")
            identity = Identity(name=f"added-{i}", kind=Kind.PERSON, created=NOW)
            version = Version(
                identity=identity, number=1, model_digest=uuid.uuid4().hex * 2, space=space, operation=operation,
                base_model="base", created=NOW, residual=0.1,
            )  # fmt: skip
            uow.add(version)
            uow.add_all(
                [
                    Coordinates(space_id=space.id, version=version, k=k, digest=digest, data=data),
                    SourceFile(
                        version=version, sha256=uuid.uuid4().hex * 2, model_digest=version.model_digest, format="peft",
                        dtype="f32", name="x", size=1, created=NOW,
                    ),
                    OperationInput(
                        operation=operation, position=0, role="lora", kind=InputKind.FILE, digest=uuid.uuid4().hex * 2
                    ),
                    *(Label(version_id=version.id, name=f"label{n}", number=float(n)) for n in range(5)),
                ]
            )  # fmt: skip
            uow.session.flush()
            uow.event("version.add", objects={"version": version.id})


def run(url: str, versions: int, family: int, adds: int, samples: int, families: Sequence[int] = ()) -> dict[str, Any]:
    schema.upgrade(url)
    engine = make_engine(parse_url(url))
    with engine.connect() as connection:
        connection.execution_options(**{WRITE: True})
        with connection.begin():
            taken, firsts = timed(lambda: fill(connection, versions, family, families))
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    engine.dispose()
    catalog = Catalog(url, event_hash=event_hash)
    found: dict[str, Any] = {"versions": versions + family + sum(families), "filled_s": round(taken.wall, 1)}
    found["lineage"] = measure_lineage(catalog, versions, samples)
    found["families"] = measure_families(catalog, firsts)
    taken, count = timed(lambda: block(catalog, versions + 1))
    found["block"] = {"versions": count, "seconds": round(taken.wall, 2), "cpu": round(taken.cpu, 2)}
    if adds:
        taken, _ = timed(lambda: add(catalog, adds))
        found["add"] = {"versions": adds, "seconds": round(taken.wall, 2), "cpu": round(taken.cpu, 2)}
    with catalog.read() as session:
        found["blocked"] = session.scalar(
            select(func.count()).select_from(Version).where(Version.state == VersionState.BLOCKED)
        )
    catalog.close()
    return found


def databases(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/catalog.db"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1_000_000)
    parser.add_argument("--block", type=int, default=10_000)
    parser.add_argument("--add", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--family", type=int, nargs="*", default=[2_500, 5_000, 7_500, 10_000, 20_000])
    parser.add_argument("--url")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for url in databases(options.url):
        found = run(url, options.versions, options.block, options.add, options.samples, options.family)
        print(json.dumps(found, indent=2))
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
