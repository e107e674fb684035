"""Lineage and manifests over a catalog, on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prov.model import ProvDocument

from tests.services.small import Small, digest
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Use
from w2w_registry.errors import NotFound
from w2w_registry.provenance.graph import Direction
from w2w_registry.records import IdentityRef
from w2w_registry.services.consent import withdraw
from w2w_registry.services.provenance import lineage


@pytest.fixture
def small(catalog: Catalog, tmp_path: Path) -> Small:
    made = Small(catalog, tmp_path)
    for subject in ("s1", "s2"):
        made.grant(subject)
    a, b = made.add("a", "s1", photo="selfie"), made.add("b", "s2")
    edited = made.derive("a", a)
    mixed = made.derive("m", edited, b, how=Use.MIX)
    made.derive("z", mixed)
    return made


def refs(small: Small, name: str, direction: Direction, depth: int | None = None) -> set[str]:
    found = lineage.lineage(small.registry, name, direction, depth=depth)
    return {v.ref for v in found.versions.values()}


def test_up_and_down(small: Small) -> None:
    assert refs(small, "m", Direction.UP) == {"m@1", "a@2", "a@1", "b@1"}
    assert refs(small, "a@1", Direction.DOWN) == {"a@1", "a@2", "m@1", "z@1"}
    assert refs(small, "z", Direction.UP, depth=1) == {"z@1", "m@1"}
    assert refs(small, "b", Direction.UP) == {"b@1"}
    cut = lineage.lineage(small.registry, "z", Direction.UP, depth=1)
    assert {cut.versions[i].ref for i in cut.cut} == {"m@1"}
    with pytest.raises(NotFound):
        lineage.lineage(small.registry, "missing", Direction.UP)


def test_a_name_is_put_together_once(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand versions must not mean ten thousand times ten thousand names."""
    made: list[IdentityRef] = []
    for _ in range(8):
        small.derive("z", small.derive("z", small.add("c", "s1")))
    written = IdentityRef.__str__
    monkeypatch.setattr(IdentityRef, "__str__", lambda ref: made.append(ref) or written(ref))
    found = lineage.lineage(small.registry, "a@1", Direction.DOWN)
    assert len(made) <= len(found.versions)


def test_every_form(small: Small) -> None:
    lines = lineage.trace(small.registry, "m", down=False, depth=None, form="tree")
    assert lines[0].startswith("m@1")
    assert lines[-1].endswith("b@1 [s2]  ← import")
    assert any(f"photo selfie.png {digest('selfie')[:12]}" in line for line in lines)
    data = lineage.trace(small.registry, "m", down=False, depth=None, form="json")
    assert json.loads(json.dumps(data.to_json()))["start"] == "m@1"
    assert lineage.trace(small.registry, "a@1", down=True, depth=None, form="dot").startswith("digraph")
    document = lineage.trace(small.registry, "m", down=False, depth=None, form="prov")
    found = ProvDocument.deserialize(content=json.dumps(document), format="json")
    assert len([r for r in found.get_records() if r.get_type().localpart == "Activity"]) == 4


def test_what_was_blocked_or_erased_keeps_its_place_in_the_graph(small: Small) -> None:
    withdraw.withdraw(small.registry, "s1")
    blocked = lineage.lineage(small.registry, "a@1", Direction.DOWN)
    assert {v.state for v in blocked.versions.values()} == {"blocked"}
    withdraw.withdraw(small.registry, "s1", erase=True)
    up = lineage.lineage(small.registry, "b", Direction.DOWN)
    assert {v.state for v in up.versions.values()} == {"active", "erased"}
    assert "b@1" in {v.ref for v in up.versions.values()}


def test_a_manifest_names_what_it_stands_on(small: Small) -> None:
    shown = lineage.show_manifest(small.registry, "m")
    inputs = shown["manifest"]["operation"]["inputs"]
    parents = [lineage.show_manifest(small.registry, name)["digest"] for name in ("a@2", "b@1")]
    assert [i["manifest"] for i in inputs] == parents
    assert shown["digest"] == lineage.show_manifest(small.registry, "m")["digest"]
    text = json.dumps(lineage.show_manifest(small.registry, "a@1").to_json())
    assert digest("selfie") in text
    for personal in ("s1", "selfie.png", "curator"):
        assert personal not in text
