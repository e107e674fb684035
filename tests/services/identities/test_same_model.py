"""The same model is one identity: re-saved, rescaled, refactored, of another rank, in one command or later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from tests.lora.test_equivalence import svd_factors
from tests.services.world import BASE, World
from w2w_registry.catalog.models import WeightsSketch
from w2w_registry.lora import write_lora
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.space.sketch import unpacked

FORMATS = ("peft", "diffusers", "kohya")
DTYPES = ("fp32", "fp16", "bf16")


def disguises(world: World, folder: Path, index: int = 5) -> list[Path]:
    """One model as nobody would know it by its file: every format and dtype, scaled, refactored, padded."""
    layout, theta = world.layout, world.theta(index)
    tensors = layout.unflatten(theta)
    scaled, refactored, padded = {}, {}, {}
    for module in layout.modules:
        a, b = tensors[(module, "A")], tensors[(module, "B")]
        scaled[(module, "A")], scaled[(module, "B")] = a * np.float32(-37.0), b / np.float32(-37.0)
        refactored[(module, "A")], refactored[(module, "B")] = svd_factors(a, b, 1)
        padded[(module, "A")], padded[(module, "B")] = svd_factors(a, b, 4)
    written: list[Path] = []

    def write(name: str, factors: dict, alpha: float, fmt: str, dtype: str) -> None:
        path = folder / (f"{name}.safetensors" if fmt == "kohya" else name)
        write_lora(path, factors, alpha, fmt=fmt, dtype=dtype, base_model=BASE)  # type: ignore[arg-type]
        written.append(path)

    for fmt in FORMATS:
        for dtype in DTYPES:
            write(f"plain-{fmt}-{dtype}", tensors, layout.alpha, fmt, dtype)
    for dtype in DTYPES:
        write(f"scaled-{dtype}", scaled, layout.alpha, "peft", dtype)
        write(f"refactored-{dtype}", refactored, layout.alpha, "diffusers", dtype)
        write(f"padded-{dtype}", padded, 4 * layout.alpha, "kohya", dtype)
    return written


@pytest.fixture
def fitted(registry: Registry, loras: Path) -> Registry:
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    return registry


def test_one_command_makes_one_identity(fitted: Registry, world: World, tmp_path: Path) -> None:
    files = disguises(world, tmp_path / "copies")
    paths = [str(p) for p in files]
    foreseen = [item.status for item in add(fitted, AddRequest(paths, dry_run=True)).items]
    items = add(fitted, AddRequest(paths)).items
    assert [item.status for item in items] == foreseen
    assert sorted(foreseen) == ["added"] + ["existing"] * (len(files) - 1)


def test_one_that_an_earlier_release_registered(fitted: Registry, world: World, loras: Path, tmp_path: Path) -> None:
    """Its sketches are float32, four bytes where there is one now."""
    add(fitted, AddRequest([str(loras)]))
    with fitted.catalog.write("tester") as uow:
        for row in uow.session.scalars(select(WeightsSketch)):
            assert len(row.data) < 300
            row.data = unpacked([row.data])[0].astype("<f4").tobytes()
        uow.event("sketch.restate")
    items = add(fitted, AddRequest([str(p) for p in disguises(world, tmp_path)])).items
    assert {(item.status, item.identity, item.version) for item in items} == {("existing", "p0005", 1)}


def test_later_and_in_another_space(fitted: Registry, world: World, loras: Path, tmp_path: Path) -> None:
    add(fitted, AddRequest([str(loras / "p0005")]))
    fit_space(fitted, "others", [str(loras / f"p{i:04d}") for i in range(10, 80)], base_model=BASE)
    items = add(fitted, AddRequest([str(p) for p in disguises(world, tmp_path)], space="others")).items
    assert {(item.status, item.identity, item.version) for item in items} == {("existing", "p0005", 1)}


def test_a_search_says_that_it_is_this_very_model(
    fitted: Registry, world: World, loras: Path, retrained: Path, tmp_path: Path
) -> None:
    """Certain, where a score is a likelihood: weights alone say "same" of nothing else."""
    add(fitted, AddRequest([str(loras)]))
    for path in disguises(world, tmp_path):
        first, second = search(fitted, str(path), limit=2).results
        assert (first.identity, first.verdict, first.false_alarm) == ("p0005", "same", 0.0), path
        assert first.same_model is not None
        assert (second.same_model, second.verdict == "same") == (None, False)
    assert search(fitted, "p0005", limit=1).results[0].same_model == "the query itself"
    again = [search(fitted, str(path), limit=1).results[0] for path in sorted(retrained.iterdir())]
    assert [one.identity for one in again if one.same_model or one.verdict == "same"] == []


def test_a_retrained_lora_is_another_model(fitted: Registry, loras: Path, retrained: Path) -> None:
    add(fitted, AddRequest([str(loras)]))
    items = add(fitted, AddRequest([str(retrained)], prefix="again/")).items
    assert {item.status for item in items} == {"added"}
