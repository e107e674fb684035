"""Many LoRAs added in a few statements: the same items, rows and refusals as one by one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests.services.test_statements import counted
from tests.services.world import BASE, World
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.likeness import StoredSketch
from w2w_registry.catalog.models import Coordinates, Event, SourceFile, Version, WeightsSketch
from w2w_registry.catalog.session import Catalog
from w2w_registry.lora import write_lora
from w2w_registry.records import VersionState
from w2w_registry.services.consent import withdraw
from w2w_registry.services.consent.second_look import SecondLook
from w2w_registry.services.identities import incoming
from w2w_registry.services.identities.ingest import AddReport, AddRequest, add
from w2w_registry.services.recording.equivalents import near_any, restored
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.settings import Settings
from w2w_registry.space.sketch import PROBES, SIZE, Sketch


def fresh(folder: Path, loras: Path) -> Registry:
    url = f"sqlite:///{folder}/catalog.db"
    folder.mkdir()
    schema.upgrade(url)
    settings = Settings(folder / "home", url, "curator", str(folder / "artifacts"), {"space_people": 2})
    made = Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))
    fit_space(made, "tiny", [str(loras)], base_model=BASE)
    return made


def mixed_folder(folder: Path, loras: Path, world: World) -> Path:
    """Forty LoRAs, of which a few are copies of others, share a name, are damaged or hold another's name."""
    folder.mkdir()
    for i in range(40):
        shutil.copytree(loras / f"p{i:04d}", folder / f"p{i:04d}")
    tensors = world.layout.unflatten(world.theta(3))
    write_lora(folder / "copy-of-3", tensors, world.layout.alpha, dtype="bf16", base_model=BASE)
    turned = {key: array * (2.0 if key[1] == "A" else 0.5) for key, array in tensors.items()}
    write_lora(folder / "also-3.safetensors", turned, world.layout.alpha, fmt="kohya", base_model=BASE)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    return folder


def told(report: AddReport, folder: Path) -> list[tuple[Any, ...]]:
    shown = []
    for item in report.items:
        error = None if item.error is None else (item.error.code, item.error.exit_code)
        path = os.path.relpath(item.path, folder)
        shown.append((path, item.status, item.identity, item.version, item.same_model, item.warnings, error))
    return sorted(shown, key=str)


def kept(registry: Registry) -> list[tuple[Any, ...]]:
    """What was recorded, ids, salts and times apart."""
    with registry.catalog.read() as session:
        query = (
            select(Version, Coordinates.digest, WeightsSketch.norm, SourceFile.sha256)
            .outerjoin(Coordinates, Coordinates.version_id == Version.id)
            .outerjoin(WeightsSketch, WeightsSketch.version_id == Version.id)
            .outerjoin(SourceFile, SourceFile.version_id == Version.id)
        )
        rows = [
            (v.identity.name, v.number, v.model_digest, v.artifact_digest, str(v.residual)[:12], *rest)
            for v, *rest in session.execute(query)
        ]
        actions = sorted(session.scalars(select(Event.action)))
    return [*sorted(map(str, rows)), actions]


def test_together_is_as_one_by_one(tmp_path: Path, loras: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mixed_folder(tmp_path / "in", loras, world)
    many = fresh(tmp_path / "many", loras)
    first = add(many, AddRequest([str(loras / "p0007")]))
    together = [first, add(many, AddRequest([str(folder)])), add(many, AddRequest([str(folder)]))]
    monkeypatch.setattr(incoming, "TOGETHER", 10**9)
    one_by_one = fresh(tmp_path / "few", loras)
    first = add(one_by_one, AddRequest([str(loras / "p0007")]))
    alone = [first, add(one_by_one, AddRequest([str(folder)])), add(one_by_one, AddRequest([str(folder)]))]
    for ours, theirs in zip(together, alone, strict=True):
        statuses = [item.status for item in ours.items]
        assert sorted(statuses) == sorted(item.status for item in theirs.items)
    assert {row[:2] for row in told(together[1], folder)} >= {("p0007", "existing"), ("p0008", "added")}
    assert told(together[2], folder)[5:] == told(alone[2], folder)[5:]
    assert kept(many) == kept(one_by_one)


def test_who_refused_is_refused_among_many(tmp_path: Path, loras: Path) -> None:
    registry = fresh(tmp_path / "home", loras)
    add(registry, AddRequest([str(loras / "p0005")], subjects=["s5"]))
    withdraw.withdraw(registry, "s5", erase=True)
    before = set(registry.artifacts.digests())
    report = add(registry, AddRequest([str(loras)]))
    refused = [item for item in report.items if item.error is not None]
    assert [Path(item.path).name for item in refused] == ["p0005"]
    assert [item.status for item in report.items].count("added") == 79
    assert len(set(registry.artifacts.digests()) - before) == 79  # what was refused left nothing behind


def test_a_statement_a_lora_at_most(tmp_path: Path, loras: Path) -> None:
    registry = fresh(tmp_path / "home", loras)
    with counted(registry) as statements:
        report = add(registry, AddRequest([str(loras)]))
    assert [item.status for item in report.items] == ["added"] * 80
    assert len(statements) <= 80


def test_no_disk_is_waited_for_inside_the_transaction(
    tmp_path: Path, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = fresh(tmp_path / "home", loras)
    writing = []
    put = ArtifactStore.put

    def noted(self: ArtifactStore, data: bytes) -> str:
        writing.append(registry.catalog._notes.writing)
        return put(self, data)

    monkeypatch.setattr(ArtifactStore, "put", noted)
    add(registry, AddRequest([str(loras)]))
    assert len(writing) == 80
    assert not any(writing)


def test_near_sketches_are_found_and_others_are_not(tmp_path: Path, loras: Path) -> None:
    registry = fresh(tmp_path / "home", loras)
    add(registry, AddRequest([str(loras)]))
    rng = np.random.default_rng(0)
    states = tuple(VersionState)
    with registry.catalog.read() as session:
        stored = [
            restored(StoredSketch(row.version_id, row.norm, row.data)) for row in session.scalars(select(WeightsSketch))
        ]
        ids = [row.version_id for row in session.scalars(select(WeightsSketch))]
        for distance in (0.0, 0.003, 0.03):
            moves = rng.normal(size=(len(stored), SIZE))
            moves *= distance * np.sqrt(PROBES) / np.linalg.norm(moves, axis=1, keepdims=True)
            moved = [
                Sketch((s.values + s.norm * m).astype(np.float32), s.norm) for s, m in zip(stored, moves, strict=True)
            ]
            found = near_any(session, moved, states)
            assert [[row.version_id for row in rows] for rows in found] == [[i] for i in ids]
        scaled = near_any(session, [Sketch(s.values * np.float32(1.03), s.norm * 1.03) for s in stored], states)
        assert [[row.version_id for row in rows] for rows in scaled] == [[i] for i in ids]
        assert not any(near_any(session, [Sketch(s.values * np.float32(3), s.norm * 3) for s in stored], states))
        assert not any(near_any(session, stored, [VersionState.ERASED]))


def test_files_that_are_there_already_are_compared_with_nobody(
    tmp_path: Path, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, folder = fresh(tmp_path / "registry", loras), tmp_path / "folder"
    folder.mkdir()
    for i in range(18):
        shutil.copytree(loras / f"p{i:04d}", folder / f"p{i:04d}")
    first = add(registry, AddRequest([str(folder)]))
    shutil.copytree(loras / "p0020", folder / "p0020")
    asked: list[int] = []
    near = SecondLook.near
    monkeypatch.setattr(SecondLook, "near", lambda *given: (asked.append(len(given[1])), near(*given))[1])
    for dry_run in (True, False):
        again = add(registry, AddRequest([str(folder)], dry_run=dry_run))
        assert [item.status for item in again.items] == ["existing"] * 18 + ["added"]
        assert [item.identity for item in again.items[:18]] == [item.identity for item in first.items]
    assert asked == [1] * len(asked)
