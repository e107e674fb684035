"""What is learnt of a file when its folder is looked through is not worked out again when it is added, unless it is
another file by then."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests.services.identities.test_together import fresh, kept
from tests.services.world import BASE, World
from w2w_registry.catalog.models import SourceFile, Version
from w2w_registry.lora import read_lora, tensorfile, write_lora
from w2w_registry.services.identities import incoming, intake
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.identities.planned import Intake
from w2w_registry.services.registry import Registry


def folder_of(root: Path, world: World, count: int = 20) -> Path:
    for i in range(count):
        tensors = world.layout.unflatten(world.theta(i))
        write_lora(root / f"p{i:04d}.safetensors", tensors, world.layout.alpha, fmt="diffusers", base_model=BASE)
    return root


def added(registry: Registry, folder: Path, between: Any = lambda: None) -> Intake:
    request = AddRequest([str(folder)])
    planned = intake.plan(registry, intake.survey(request), fit=False)
    between()
    return intake.perform(registry, request, planned)


def recorded(registry: Registry) -> dict[str, tuple[str, str]]:
    """Digests of its file and of its numbers, by name of the file that a version came in."""
    with registry.catalog.read() as session:
        query = select(SourceFile.name, SourceFile.sha256, Version.model_digest).join(SourceFile.version)
        return {name: (sha256, model) for name, sha256, model in session.execute(query)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many files were hashed, and how many models sketched, hashed and bounded while they were added."""
    done = {"files": 0, "sketches": 0, "models": 0, "bounds": 0}
    marked = tensorfile._marked

    def counted(place: Any, digest: Any, data: bytes, before: Any) -> Any:
        mark = marked(place, digest, data, before)
        done["files"] += mark is not before
        return mark

    monkeypatch.setattr(tensorfile, "_marked", counted)
    for name, word in (("sketches_of", "sketches"), ("rounding_errors", "bounds")):
        many = getattr(incoming, name)

        def noted(thetas: Any, layout: Any, many: Any = many, word: str = word) -> Any:
            done[word] += len(thetas)
            return many(thetas, layout)

        monkeypatch.setattr(incoming, name, noted)
    digest = incoming.model_digest

    def one(theta: Any, layout: Any) -> str:
        done["models"] += 1
        return digest(theta, layout)

    monkeypatch.setattr(incoming, "model_digest", one)
    return done


def test_bytes_are_hashed_and_sketched_once(tmp_path: Path, loras: Path, world: World, work: dict[str, int]) -> None:
    folder = folder_of(tmp_path / "in", world)
    registry = fresh(tmp_path / "home", loras)
    work["files"] = 0
    done = added(registry, folder)
    assert [item.status for item in done.items] == ["added"] * 20
    assert work == {"files": 20, "sketches": 0, "models": 0, "bounds": 0}
    other = fresh(tmp_path / "other", loras)
    work["files"] = 0
    intake.into(other, AddRequest([str(folder)], space="tiny"), lambda r, q, p: intake.ingest.add(r, q, p))
    assert work == {"files": 20, "sketches": 20, "models": 20, "bounds": 20}
    assert kept(registry) == kept(other)


@pytest.mark.parametrize("how", ["another file", "rewritten", "rewritten within a tick"])
def test_a_file_swapped_meanwhile_is_added_as_what_it_is(
    tmp_path: Path, loras: Path, world: World, work: dict[str, int], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = folder_of(tmp_path / "in", world)
    registry = fresh(tmp_path / "home", loras)
    file, other = folder / "p0003.safetensors", tmp_path / "other.safetensors"
    tensors = world.layout.unflatten(world.theta(60))
    write_lora(other, tensors, world.layout.alpha, fmt="diffusers", base_model=BASE)
    before = file.stat()
    assert before.st_size == other.stat().st_size
    if how == "rewritten within a tick":  # device, inode, size and times are those of before
        monkeypatch.setattr(tensorfile, "_place", lambda info: (0, 0, info.st_size, 0, 0))

    def swap() -> None:
        if how == "another file":
            os.replace(other, file)
        else:
            file.write_bytes(other.read_bytes())
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    work["files"] = 0
    done = added(registry, folder, swap)
    assert [item.status for item in done.items] == ["added"] * 20
    assert work == {"files": 21, "sketches": 1, "models": 1, "bounds": 1}
    now = recorded(registry)
    assert now["p0003.safetensors"][0] == sha256(file)
    lora = read_lora(file)
    assert now["p0003.safetensors"][1] == incoming.model_digest(lora.theta(), lora.layout())
    assert np.array_equal(lora.theta(), world.theta(60))
    assert all(found[0] == sha256(folder / name) for name, found in now.items())


def test_a_file_whose_alpha_is_said_otherwise_meanwhile_is_added_as_it_is_now(
    tmp_path: Path, loras: Path, world: World
) -> None:
    folder = tmp_path / "in"
    for i in range(20):
        tensors = world.layout.unflatten(world.theta(i))
        write_lora(folder / f"p{i:04d}", tensors, world.layout.alpha, fmt="peft", base_model=BASE)
    registry = fresh(tmp_path / "home", loras)
    config = folder / "p0003" / "adapter_config.json"
    said = config.read_text()

    def say() -> None:
        config.write_text(said.replace(f'"lora_alpha": {world.layout.alpha:g}', '"lora_alpha": 1'))
        assert config.read_text() != said

    done = added(registry, folder, say)
    assert {item.status for item in done.items} == {"added"}
    with registry.catalog.read() as session:
        models = {v.identity.name: v.model_digest for v in session.scalars(select(Version))}
    lora = read_lora(folder / "p0003")
    assert lora.alpha == 1
    theta = np.concatenate(
        [lora.tensors[key].reshape(-1) / (world.layout.alpha if key[1] == "B" else 1) for key in world.layout.shapes]
    )
    assert models["p0003"] == incoming.model_digest(theta, world.layout)
