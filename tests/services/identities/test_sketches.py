"""Versions of an earlier release get their sketches when the schema is upgraded."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import func, select

from tests.services.world import BASE
from w2w_registry.catalog.models import WeightsSketch
from w2w_registry.services.identities.ingest import add
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.recording import sketches
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space


def count(registry: Registry) -> int:
    with registry.catalog.read() as session:
        return session.scalar(select(func.count()).select_from(WeightsSketch)) or 0


def test_missing_sketches_are_computed_once(registry: Registry, loras: Path) -> None:
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras)]))
    assert count(registry) == 80
    with registry.catalog.write("tester") as uow:
        uow.bulk_delete(WeightsSketch, uow.keys(WeightsSketch)[:30])
        uow.event("sketch.remove")
    assert sketches.complete(registry) == 30
    assert count(registry) == 80
    assert sketches.complete(registry) == 0
