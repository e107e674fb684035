"""``duplicates``: the same model under several names, in whatever space and form, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.services.world import BASE, World
from w2w_registry.consent.records import Scope
from w2w_registry.services.consent import grants
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.duplicates import duplicates
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis.edit import mix
from w2w_registry.space.near_pairs import near_pairs
from w2w_registry.space.sketch import PROBES


def put(registry: Registry, *paths: Path, **options: object) -> None:
    add(registry, AddRequest([str(p) for p in paths], space="faces", **options))  # type: ignore[arg-type]


def test_copies_are_found_and_second_trainings_are_not(
    registry: Registry, loras: Path, retrained: Path, world: World, tmp_path: Path
) -> None:
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    put(registry, loras / "p0007", subjects=["s-7"])
    put(registry, *(loras / f"p{i:04d}" for i in range(20)))
    grants.grant(registry, "s-7", Scope(purposes=("any",)))
    put(registry, *(retrained / f"p{i:04d}" for i in range(5)), prefix="again/")
    assert duplicates(registry) == ([], 25)
    # What `add` would know again comes in by another way: mixed of one, or added while the first was out.
    mix(registry, ["p0007", "p0007"], [0.5, 0.5], name="copy")
    (found,), _ = duplicates(registry)
    assert found.versions == ("p0007@1", "copy@1")
    assert found.to_json()["versions"] == ["p0007@1", "copy@1"]


def test_near_pairs_are_those_of_all_compared_with_all() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(3000, 256)) + 2 * rng.normal(size=256)
    norms = np.linalg.norm(people, axis=1) / np.sqrt(PROBES)
    copied = rng.permutation(3000)[:300]
    noise = rng.normal(size=(300, 256)) / 16 * np.linalg.norm(people[copied], axis=1)[:, None]
    copies = people[copied] + noise * np.geomspace(1e-4, 0.06, 300)[:, None]
    rows = np.concatenate([people, copies]).astype(np.float32)
    found = near_pairs(rows, np.concatenate([norms, norms[copied]]))
    assert {(i, j) for i, j, _ in found} == {(int(c), 3000 + n) for n, c in enumerate(copied)}
    assert [gap for *_, gap in found] == sorted(gap for *_, gap in found)
    assert near_pairs(np.zeros((3, 256)), np.zeros(3)) == []
