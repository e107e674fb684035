"""No route around the door: every service that records, emits or draws weights passes it, and tries that it does."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.services.world import BASE, World
from w2w_registry.catalog.lineage import ancestor_ids
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Scope, Use
from w2w_registry.errors import ConsentDenied, LikenessRefused
from w2w_registry.lora import write_lora
from w2w_registry.services.consent import amendments, grants, withdraw
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.provenance.replay import replay
from w2w_registry.services.recording.space_files import write_space
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import export_space, fit_space, import_space
from w2w_registry.services.synthesis import edit

SERVICES = Path(__file__).parents[3] / "w2w_registry" / "services"
EMIT = {"record_version", "record_versions", "lora_files", "write_lora", "write_space", "kept_files", "draw"}
GUARDS = {"admit", "admit_all", "hold", "hold_models", "hold_space", "meets", "require", "ask", "ask_each"}
INNER = {
    "recording/versions.py": "takes the door's admission for an argument",
    "recording/spaces.py": "stores a space's arrays, for those who hold it first",
    "hub/release_files.py": "makes the files of a release, for `release`, which asks the gate before and after",
    "synthesis/training.py": "draws the class to preserve, by the base model alone",
    "hub/resolving.py": "a release's point as a file to search with, in a folder of its own",
}
"""Modules that emit and do not ask themselves, and why they need not."""


def called(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            names.add(function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""))
    return names


def test_whoever_emits_asks() -> None:
    emitting = {str(p.relative_to(SERVICES)): called(p) for p in SERVICES.rglob("*.py") if called(p) & EMIT}
    assert len(emitting) > 8
    assert {name for name, calls in emitting.items() if not calls & GUARDS} == set(INNER)


@pytest.fixture
def home(registry: Registry, loras: Path) -> Registry:
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    grants.grant(registry, "alice", Scope(purposes=("any",), derivatives=True, publication=True))
    add(registry, AddRequest([str(loras / "p0005")], name="alice", subjects=["alice"]))
    add(registry, AddRequest([str(loras)], kind="style"))
    return registry


def test_a_space_around_somebody_who_refused(home: Registry, world: World, tmp_path: Path) -> None:
    """A space whose mean is Alice would sample her."""
    _, space = open_space(home, "faces")
    write_space(tmp_path / "fine", replace(space, mean=world.theta(40)))
    write_space(tmp_path / "hers", replace(space, mean=world.theta(5) * np.float32(1.01)))
    withdraw.withdraw(home, "alice")
    import_space(home, "fine", str(tmp_path / "fine"))
    with pytest.raises(LikenessRefused):
        import_space(home, "hers", str(tmp_path / "hers"))


def test_a_space_fitted_with_somebody_who_refused_stays(home: Registry, tmp_path: Path) -> None:
    export_space(home, "faces", str(tmp_path / "before"))
    withdraw.withdraw(home, "alice")
    with pytest.raises(ConsentDenied) as caught:
        export_space(home, "faces", str(tmp_path / "after"))
    assert caught.value.subjects == ("alice",)


def test_whoever_does_not_agree_to_training_is_not_fitted_on(home: Registry, loras: Path) -> None:
    amendments.narrow(home, "alice", lambda scope: replace(scope, uses=(Use.SEARCH,)))
    shown = fit_space(home, "later", [str(loras)], base_model=BASE)
    assert shown["fit_size"] == 79
    assert any("p0005" in text for text in shown["warnings"])


def test_whom_a_mix_comes_near_is_upstream(home: Registry, world: World, tmp_path: Path) -> None:
    """Two files that are nobody by themselves, made so that their middle is Alice."""
    rng = np.random.default_rng(0)
    only_b = np.concatenate([np.full(t.size, float(t.factor == "B")) for t in world.layout.tensors])
    away = rng.normal(size=24) @ world.axes * only_b
    for name, sign in (("left", 1), ("right", -1)):
        theta = (world.theta(5) + sign * 3 * away).astype(np.float32)
        write_lora(tmp_path / name, world.layout.unflatten(theta), world.layout.alpha, base_model=BASE)
    assert [item.status for item in add(home, AddRequest([str(tmp_path)], kind="style")).items] == ["added"] * 2
    edit.mix(home, ["left", "right"], [0.5, 0.5], name="middle")
    assert replay(home, "middle")["outcome"] == "identical"
    withdraw.withdraw(home, "alice")
    with pytest.raises(ConsentDenied) as caught:
        edit.mix(home, ["middle", "p0007"], [0.5, 0.5], name="again")
    assert "alice" in caught.value.subjects


def test_what_was_made_of_an_input_is_not_upstream_of_what_stays_nearer_to_it(home: Registry) -> None:
    """Whoever was mixed into somebody a little is in that mixture, and not in that person's other mixtures."""
    edit.mix(home, ["p0006", "p0007"], [0.8, 0.2], name="blend")
    edit.mix(home, ["p0006", "p0009"], [0.95, 0.05], name="apart")
    edit.mix(home, ["blend", "p0011"], [0.95, 0.05], name="over")

    def made_of(name: str) -> set[str]:
        with home.catalog.read() as session:
            ids = ancestor_ids(session, [version_for(session, name).id])
            return {ref.name for ref in refs_of(session, ids).values()}

    assert made_of("apart") == {"apart", "p0006", "p0009"}
    assert made_of("over") == {"over", "blend", "p0006", "p0007", "p0011"}
