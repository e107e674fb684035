"""``search`` in a folder's registry as it is: each query in the space that holds it, or by what it changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.lora.loras import st_file
from tests.services.identities.folder import make_folder, rand, transformer_lora
from tests.services.world import make_world
from w2w_registry.errors import BadLora, ConsentDenied, SpaceMismatch
from w2w_registry.lora import write_lora
from w2w_registry.services.consent import withdraw
from w2w_registry.services.identities import intake
from w2w_registry.services.identities.ingest import AddRequest
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.draws import search_by

BOTH = ("people/p0001.safetensors", "flux/output3/transformer")
OPAQUE = "odd/dora.safetensors"
FREE = "odd/loha.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("unplaced"), make_world(24))


def everything(registry: Registry, folder: Path, *, fit: bool, subjects: Sequence[str] = ()) -> Registry:
    request = AddRequest([str(folder)], subjects=list(subjects))
    intake.perform(registry, request, intake.plan(registry, intake.survey(request), fit=fit))
    return registry


def test_every_file_of_a_registry_without_a_space_finds_itself(registry: Registry, folder: Path) -> None:
    everything(registry, folder, fit=False)
    queries = [str(folder / one) for one in (*BOTH, OPAQUE, FREE)]
    found = search_by(registry, queries, limit=3)
    assert [one.results[0].identity for one in found] == ["p0001", "output3", "dora", "loha"]
    assert all(one.results[0].verdict == "same" and one.space is None and one.by == "weights" for one in found)
    assert all(hit.verdict is None and hit.same_model is None for one in found for hit in one.results[1:])
    assert "copies of the same numbers" in found[2].warnings[0]
    assert (len(found[2].results), len(found[3].results)) == (1, 3)
    (by_name,) = search_by(registry, ["loha"], limit=1)
    assert (by_name.results[0].identity, by_name.results[0].same_model) == ("loha", "the query itself")


def test_a_copy_in_other_factors_and_format_is_found(registry: Registry, folder: Path, tmp_path: Path) -> None:
    everything(registry, folder, fit=False)
    tensors = {key: array * (4.0 if key[1] == "A" else 0.25) for key, array in transformer_lora(7).items()}
    write_lora(tmp_path / "x.safetensors", tensors, 1.0, fmt="kohya")
    (found,) = search_by(registry, [str(tmp_path / "x.safetensors")], limit=1)
    assert (found.results[0].identity, found.results[0].verdict) == ("output7", "same")
    (none,) = search_by(registry, [str(tmp_path / "x.safetensors")], limit=1, where="name = output8")
    assert (none.results[0].identity, none.results[0].verdict) == ("output8", None)


def test_of_several_spaces_each_query_has_its_own(registry: Registry, folder: Path) -> None:
    everything(registry, folder, fit=True)
    queries = [str(folder / one) for one in (*BOTH, FREE)]
    found = search_by(registry, queries, limit=1)
    assert [one.results[0].identity for one in found] == ["p0001", "output3", "loha"]
    spaces = [one.space for one in found]
    assert len(set(spaces)) == 3
    assert spaces[2] is None
    with pytest.raises(SpaceMismatch):
        search_by(registry, queries[:1], space=spaces[1])


def test_a_lora_from_another_start_is_looked_for_by_what_it_changes(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    everything(registry, folder, fit=True)
    apart = {key: rand(*array.shape, seed=900 + i) for i, (key, array) in enumerate(transformer_lora(0).items())}
    write_lora(tmp_path / "apart.safetensors", apart, 1.0, fmt="diffusers")
    everything(registry, tmp_path / "apart.safetensors", fit=True)
    (found,) = search_by(registry, [str(tmp_path / "apart.safetensors")], limit=1)
    assert (found.results[0].identity, found.results[0].verdict) == ("apart", "same")


def test_who_is_gone_is_not_found_and_what_is_no_adapter_is_named(registry: Registry, tmp_path: Path) -> None:
    for n in range(2):
        write_lora(tmp_path / f"f{n}.safetensors", transformer_lora(n), 1.0, fmt="diffusers")
        everything(registry, tmp_path / f"f{n}.safetensors", fit=False, subjects=[f"subject-{n}"])
    remove(registry, "f1", perform=True)
    (found,) = search_by(registry, [str(tmp_path / "f1.safetensors")])
    assert [hit.identity for hit in found.results] == ["f0"]
    withdraw.withdraw(registry, "subject-0")
    (found,) = search_by(registry, [str(tmp_path / "f0.safetensors")])
    assert found.results == ()
    with pytest.raises(ConsentDenied):
        search_by(registry, ["f0"])
    (found,) = search_by(registry, [str(tmp_path / "f0.safetensors")], include_blocked=True)
    assert [(hit.identity, hit.verdict) for hit in found.results] == [("f0", "same")]
    with pytest.raises(BadLora, match="textual-inversion"):
        search_by(registry, [str(st_file(tmp_path / "ti.safetensors", {"emb_params": rand(1, 12)}))])
