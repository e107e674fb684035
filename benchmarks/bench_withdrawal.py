"""Withdrawing a subject with many descendants: the plan, the block, search afterwards, erasure; and asking the gate.

    python -m benchmarks.bench_withdrawal [--descendants 10000] [--bystanders 20000] [--url URL] [--json FILE]

The subject has one imported model; every descendant is an edit or mix of some of the 500 before it, so chains are
deep and broad. All versions have coordinates (64 components) and are in the index. Wall and CPU seconds are those of
this process; on a busy machine only the second is comparable. SQLite in a temporary folder unless a URL is given.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, select

from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog import schema
from w2w_registry.catalog.models import (
    Coordinates,
    Identity,
    InputKind,
    Operation,
    OperationInput,
    Space,
    Version,
    VersionSubject,
)
from w2w_registry.catalog.session import Catalog, UnitOfWork
from w2w_registry.catalog.vectors import pack
from w2w_registry.consent.records import Scope, Use
from w2w_registry.records import Kind, VersionState, now
from w2w_registry.services.audit import log
from w2w_registry.services.consent import gate, grants, withdraw
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.recording.nearest import open_nearest
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings

K = 64
REACH = 500
BATCH = 5000


def fill(registry: Registry, descendants: int, bystanders: int) -> tuple[int, int]:
    """One root of subject s1, its descendants, and products beside them; returns the ids of space and root."""
    rng = random.Random(1)
    points = np.random.default_rng(1)
    with registry.catalog.write("bench") as uow:
        fitted = Operation(id=str(uuid.uuid4()), kind="fit", agent="bench", started_at=now(), code_version="0")
        uow.add(fitted)
        space = uow.add(
            Space(
                name="faces",
                number=1,
                digest="0" * 64,
                base_model="base",
                layout_digest="0" * 64,
                layout=[],
                dim=1000,
                rank=1,
                alpha=1.0,
                components=K,
                artifact_digest="0" * 64,
                operation_id=fitted.id,
                created=now(),
            )
        )
        uow.event("space.add", {"space": space.id})
        space_id = space.id
    family: list[int] = []
    for start in range(0, 1 + descendants + bystanders, BATCH):
        stop = min(start + BATCH, 1 + descendants + bystanders)
        with registry.catalog.write("bench") as uow:
            for number in range(start, stop):
                if number == 0 or number > descendants:
                    made = _rows(uow, space_id, number, [], points)
                else:
                    near = family[-REACH:]
                    made = _rows(uow, space_id, number, rng.sample(near, min(len(near), rng.choice([1, 1, 2]))), points)
                if number <= descendants:
                    family.append(made)
            if start == 0:
                uow.bulk_insert(VersionSubject, [{"version_id": family[0], "subject_id": "s1"}])
            uow.event("bench.fill")
    return space_id, family[0]


def _rows(uow: UnitOfWork, space_id: int, number: int, parents: list[int], points: np.random.Generator) -> int:
    kind = "mix" if len(parents) > 1 else "edit" if parents else "import"
    operation = str(uuid.uuid4())
    uow.bulk_insert(
        Operation, [{"id": operation, "kind": kind, "agent": "bench", "started_at": now(), "code_version": "0"}]
    )
    what = Kind.PERSON if number == 0 or parents else Kind.PRODUCT
    [(identity,)] = uow.bulk_insert(Identity, [{"name": f"p{number:07}", "kind": what, "created": now()}])
    [(version,)] = uow.bulk_insert(
        Version,
        [
            {
                "identity_id": identity,
                "number": 1,
                "model_digest": f"{number:064x}",
                "space_id": space_id,
                "operation_id": operation,
                "base_model": "base",
                "created": now(),
            }
        ],
    )
    for place, parent in enumerate(parents):
        uow.bulk_insert(
            OperationInput,
            [
                {
                    "operation_id": operation,
                    "position": place,
                    "role": "source",
                    "kind": InputKind.VERSION,
                    "version_id": parent,
                }
            ],
        )
    data, digest = pack(points.standard_normal(K).astype(np.float32))
    uow.bulk_insert(
        Coordinates, [{"space_id": space_id, "version_id": version, "k": K, "digest": digest, "data": data}]
    )
    return int(version)


def timed(call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return {"wall_s": round(time.perf_counter() - wall, 3), "cpu_s": round(time.process_time() - cpu, 3)}, result


def search_everything(registry: Registry, space_id: int) -> int:
    """How many versions a search over the whole index returns."""
    with registry.catalog.read() as session:
        nearest = open_nearest(registry, session, session.get_one(Space, space_id))
        ids, _ = nearest.search(np.ones((1, K), np.float32), 10**6)
        found = {int(i) for i in ids[0] if i >= 0}
        served = set(session.scalars(select(Version.id).where(Version.state == VersionState.ACTIVE)))
    assert found == served, "the index and the catalog disagree"
    return len(found)


def run(url: str, home: Path, descendants: int, bystanders: int) -> dict[str, Any]:
    schema.upgrade(url)
    settings = Settings(home, url, "bench", str(home / "artifacts"))
    registry = Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))
    grants.grant(registry, "s1", Scope(("any",), derivatives=True, publication=True))
    out: dict[str, Any] = {"descendants": descendants, "bystanders": bystanders}
    out["fill"], (space_id, root) = timed(lambda: fill(registry, descendants, bystanders))
    out["first search, index built"], before = timed(lambda: search_everything(registry, space_id))
    last = root + descendants
    out["gate, one version with the deepest ancestry"], _ = timed(
        lambda: gate.require(registry, Use.PUBLISH, versions=[last])
    )
    with registry.catalog.read() as session:
        ids = list(range(root, root + min(1000, descendants)))
        out["consent states of 1,000 versions"], _ = timed(lambda: consent_states(session, ids, now()))
        out["lineage down from the root, ids by recursive SQL"], found = timed(
            lambda: walks.descendant_ids(session, [root])
        )
        assert len(found) == descendants + 1
        out["lineage down from the root, with every edge"], _ = timed(lambda: walks.descendants(session, [root]))
        out["lineage up from the last, with every edge"], above = timed(lambda: walks.ancestors(session, [last]))
        out["versions above the last"] = len(above.depth)
    out["plan"], plan = timed(lambda: withdraw.plan_withdrawal(registry, "s1"))
    assert len(plan.versions) == descendants + 1

    def block() -> None:
        with registry.catalog.write("bench") as uow:
            withdraw._block(uow, plan)

    out["block (one transaction)"], _ = timed(block)
    out["search afterwards, index topped up"], after = timed(lambda: search_everything(registry, space_id))
    assert (before, after) == (1 + descendants + bystanders, bystanders)
    with registry.catalog.read() as session:
        blocked = session.scalar(select(func.count()).select_from(Version).where(Version.state == VersionState.BLOCKED))
    assert blocked == descendants + 1
    out["rest (receipt)"], _ = timed(lambda: withdraw.withdraw(registry, "s1"))
    out["erasure on top"], _ = timed(lambda: withdraw.withdraw(registry, "s1", erase=True))
    out["verify the whole log"], verdict = timed(lambda: log.verify(registry))
    assert verdict.ok, verdict.findings[:3]
    out["events"], out["rows"] = verdict.events, verdict.rows
    registry.catalog.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descendants", type=int, default=10_000)
    parser.add_argument("--bystanders", type=int, default=20_000)
    parser.add_argument("--url")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{folder}/catalog.db"
        found = run(url, Path(folder), options.descendants, options.bystanders)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
