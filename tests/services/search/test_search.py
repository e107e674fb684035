"""``search``: nearest identities, filters, removals, thresholds; the index follows the catalog."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.services.world import BASE, World
from w2w_registry.catalog.models import Space
from w2w_registry.errors import BadLora, NotFound, WhereError
from w2w_registry.lora import write_lora
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import remove, set_alias, set_tags
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search, search_many
from w2w_registry.services.spaces.manage import fit_space


@pytest.fixture
def filled(registry: Registry, loras: Path) -> Registry:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras)], labels={"group": "all"}))
    return registry


def test_retrained_loras_find_their_identity(filled: Registry, retrained: Path) -> None:
    queries = sorted(str(p) for p in retrained.iterdir())
    found = search_many(filled, queries, limit=3)
    right = [Path(q).name == f.results[0].identity for q, f in zip(queries, found, strict=True)]
    assert sum(right) >= 29
    assert sum(f.results[0].same_identity is True for f in found) >= 27
    assert not any(hit.same_identity for f in found for hit in f.results[1:])


def test_contract_of_the_json(filled: Registry, loras: Path) -> None:
    value = search(filled, str(loras / "p0004"), limit=2).to_json()
    assert {"query", "space", "metric", "residual", "results"} <= value.keys()
    keys = {"rank", "identity", "version", "score", "same_identity", "kind", "consent", "by", "verdict", "false_alarm"}
    assert value["results"][0].keys() == keys | {"same_model"}
    assert value["results"][0]["identity"] == "p0004"
    assert value["space"] == "tiny@1"


def test_by_name_version_alias_and_path(filled: Registry, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_alias(filled, "production", "p0004@1")
    for query in ("p0004", "p0004@1", "p0004@production", str(loras / "p0004")):
        assert search(filled, query, limit=1).results[0].identity == "p0004"
    monkeypatch.chdir(loras.parent)
    assert search(filled, "loras/p0005", limit=1).results[0].identity == "p0005"
    with pytest.raises(NotFound):
        search(filled, "p9999")
    with pytest.raises(BadLora):
        search(filled, "./nothing.safetensors")


def test_where_restricts_the_results(filled: Registry) -> None:
    set_tags(filled, "p0040", ["team=ads"])
    found = search(filled, "p0004", where="tag.team = 'ads'")
    assert [hit.identity for hit in found.results] == ["p0040"]
    assert len(search(filled, "p0004", limit=100, where="group = 'all'").results) == 80
    assert search(filled, "p0004", where="tag.team = 'nobody'").results == ()
    with pytest.raises(WhereError):
        search(filled, "p0004", where="team = ")


def test_removed_identities_are_gone_and_come_back(filled: Registry, loras: Path) -> None:
    neighbour = search(filled, "p0004", limit=2).results[1].identity
    remove(filled, neighbour, perform=True)
    assert neighbour not in [h.identity for h in search(filled, "p0004", limit=100).results]
    assert len(search(filled, "p0004", limit=100).results) == 79
    add(filled, AddRequest([str(loras / neighbour)]))
    found = search(filled, "p0004", limit=2).results[1]
    assert (found.identity, found.version) == (neighbour, 2)


def test_the_index_is_only_a_cache(filled: Registry) -> None:
    before = search(filled, "p0004", limit=80).to_json()
    assert any(filled.settings.index_dir.iterdir())
    shutil.rmtree(filled.settings.index_dir)
    assert search(filled, "p0004", limit=80).to_json() == before
    for file in filled.settings.index_dir.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-7])
    assert search(filled, "p0004", limit=80).to_json() == before


def test_each_identity_once_with_its_best_version(filled: Registry, retrained: Path) -> None:
    add(filled, AddRequest([str(retrained)]))
    found = search(filled, str(retrained / "p0004"), limit=10)
    names = [hit.identity for hit in found.results]
    assert len(set(names)) == len(names) == 10
    assert (found.results[0].identity, found.results[0].version) == ("p0004", 2)


def test_a_strange_lora_is_told_by_its_residual(filled: Registry, world: World, loras: Path, tmp_path: Path) -> None:
    fit_space(filled, "narrow", [str(loras)], base_model=BASE, components=6)
    moves = np.concatenate([np.full(t.size, 0.1 if t.factor == "A" else 5.0) for t in world.layout.tensors])
    theta = world.mean + moves * np.random.default_rng(1).normal(size=world.layout.dim)
    write_lora(tmp_path / "strange", world.layout.unflatten(theta.astype(np.float32)), 4.0, base_model=BASE)
    found = search(filled, str(tmp_path / "strange"), space="narrow")
    assert found.residual is not None
    assert found.residual > 0.5
    assert any("residual" in warning for warning in found.warnings)
    added = add(filled, AddRequest([str(tmp_path / "strange")], space="narrow")).items[0]
    assert added.status == "added"
    assert any("residual" in warning for warning in added.warnings)
    usual = search(filled, str(loras / "p0007"), space="narrow")
    assert not any("residual" in warning for warning in usual.warnings)


def test_every_search_says_how_sure_it_is(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index that misses the best: a certified search notices and looks at everyone."""
    from w2w_registry.index.exact import ExactIndex

    asked: dict[str, Any] = {"limit": 3}
    plain = search(filled, "p0004", **asked)
    assert plain.certainty == plain.to_json()["certainty"] == "exact"
    real = ExactIndex.search

    def forgetful(self: ExactIndex, queries: object, limit: int, *, exact: bool = False, **filters: object) -> object:
        ids, scores = real(self, queries, limit + 1, **filters)  # type: ignore[arg-type]
        return (ids[:, :limit], scores[:, :limit]) if exact else (ids[:, 1:], scores[:, 1:])

    monkeypatch.setattr(ExactIndex, "search", forgetful)
    monkeypatch.setattr(ExactIndex, "exhaustive", property(lambda _self: False))
    missed = search(filled, "p0004", **asked)
    assert missed.certainty == "approximate"
    assert missed.results[0].identity != "p0004"
    assert search(filled, "p0004", **asked, fast=True).certainty == "fast"
    for options in ({"exact": True}, {"certified": True}):
        found = search(filled, "p0004", **asked, **options)
        assert (found.certainty, found.results) == ("exact", plain.results)
    monkeypatch.setattr(ExactIndex, "search", real)
    found = search(filled, "p0004", **asked, certified=True)
    assert (found.certainty, found.results) == ("certified", plain.results)


def test_a_proof_asks_for_no_more_than_the_results_need(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many results as were asked for, all above a low threshold: only who comes before the last of them matters."""
    from w2w_registry.index.exact import ExactIndex

    asked: list[float] = []
    above = ExactIndex.above

    def noted(self: ExactIndex, queries: object, threshold: float, **filters: object) -> object:
        asked.append(threshold)
        return above(self, queries, threshold, **filters)  # type: ignore[arg-type]

    monkeypatch.setattr(ExactIndex, "above", noted)
    monkeypatch.setattr(ExactIndex, "exhaustive", property(lambda _self: False))
    monkeypatch.setattr(Space, "calibration", property(lambda _self: {"threshold": -1.0}))
    found = search(filled, "p0004", limit=3, certified=True)
    assert found.certainty == "certified"
    assert asked == [pytest.approx(found.results[-1].score, abs=1e-6)]


def test_a_part_of_a_name_is_enough_where_only_one_has_it(filled: Registry) -> None:
    whole, part = search(filled, "p0007"), search(filled, "0007")
    assert part.results[0].identity == whole.results[0].identity == "p0007"
    with pytest.raises(NotFound) as caught:
        search(filled, "P000")
    assert caught.value.fields["near"] == ("p0000", "p0001", "p0002")
