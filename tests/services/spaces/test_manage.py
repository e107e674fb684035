"""Weight spaces in the catalog: fit, versions, repeats, export and import, refit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from tests.services.world import BASE, World, tiny_layout
from w2w_registry.catalog.models import Operation, OperationInput, Space, SpaceMember
from w2w_registry.errors import BadFile, IntegrityError, NotFound, RegistryError, UsageError
from w2w_registry.lora import write_lora
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import export_space, fit_space, import_space
from w2w_registry.services.spaces.refit import refit_space
from w2w_registry.services.spaces.showing import list_spaces, show_space


def test_fitting_a_name_again_makes_its_next_version(registry: Registry, loras: Path) -> None:
    first = fit_space(registry, "tiny", [str(loras)], base_model=BASE, revision="main", components=5)
    second = fit_space(registry, "tiny", [str(loras)], base_model=BASE, revision="main", components=7)
    assert [first["space"], second["space"]] == ["tiny@1", "tiny@2"]
    assert [row["space"] for row in list_spaces(registry)] == ["tiny@1", "tiny@2"]
    assert show_space(registry, "tiny")["components"] == 7
    assert show_space(registry, "tiny@1")["components"] == 5
    assert show_space(registry, "tiny")["base_revision"] == "main"
    with pytest.raises(NotFound):
        show_space(registry, "tiny@3")


def test_the_same_fit_is_the_same_space(registry: Registry, loras: Path) -> None:
    first = fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    again = fit_space(registry, "other-name", [str(loras)], base_model=BASE)
    assert (again["digest"], again["space"]) == (first["digest"], "tiny@1")


def test_the_same_fit_under_another_name_is_said(registry: Registry, loras: Path, tmp_path: Path) -> None:
    first = fit_space(registry, "faces", [str(loras)], base_model=BASE)
    again = fit_space(registry, "people", [str(loras)], base_model=BASE)
    assert again["space"] == first["space"] == "faces@1"
    assert "no space named people was made; the same space is registered as faces@1" in again["warnings"]
    assert not any(
        "there already" in text for text in fit_space(registry, "faces", [str(loras)], base_model=BASE)["warnings"]
    )
    export_space(registry, "faces", str(tmp_path / "space"))
    assert "as faces@1" in import_space(registry, "people", str(tmp_path / "space"))["notes"][-1]
    assert len(list_spaces(registry)) == 1


def test_what_was_fitted_on_is_recorded(registry: Registry, loras: Path) -> None:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    with registry.catalog.read() as session:
        assert len(session.scalars(select(SpaceMember)).all()) == 80
        operation = session.scalars(select(Operation).where(Operation.kind == "fit")).one()
        inputs = session.scalars(select(OperationInput).where(OperationInput.operation_id == operation.id)).all()
        assert len({i.digest for i in inputs}) == 80


def test_odd_ones_are_left_out_and_told(registry: Registry, loras: Path, world: World, tmp_path: Path) -> None:
    write_lora(tmp_path / "rank2", tiny_layout(2).unflatten(np.ones(tiny_layout(2).dim, np.float32)), 4.0)
    write_lora(tmp_path / "other", world.layout.unflatten(world.theta(1)), 4.0, base_model="someone/else")
    (tmp_path / "broken.safetensors").write_bytes(b"oops")
    value = fit_space(registry, "tiny", [str(loras), str(tmp_path)], base_model=BASE)
    assert value["fit_size"] == 80
    told = " ".join(value["warnings"])
    assert all(word in told for word in ("rank2", "someone/else", "broken"))


def test_nothing_to_fit_on(registry: Registry, loras: Path, tmp_path: Path) -> None:
    for paths in ([str(tmp_path)], [str(loras / "p0001")], [str(tmp_path / "none")]):
        with pytest.raises(RegistryError):
            fit_space(registry, "tiny", paths, base_model=BASE)
    with pytest.raises(UsageError):
        fit_space(registry, "tiny", [str(loras)], base_model=BASE, components=1000)
    assert list_spaces(registry) == []


def test_repeats_teach_the_metric(registry: Registry, loras: Path, retrained: Path) -> None:
    value = fit_space(registry, "tiny", [str(loras)], base_model=BASE, repeats=str(retrained))
    assert value["metric"] == "reliability"
    assert value["true_match_rate"] > 0.8
    _, space = open_space(registry, "tiny")
    assert space.repeat_reliability is not None
    # The first AXES components tell identities apart, the rest is the noise of training.
    assert space.repeat_reliability[:20].mean() > space.repeat_reliability[30:].mean() + 0.3


def test_export_and_import_are_bit_for_bit(registry: Registry, loras: Path, tmp_path: Path) -> None:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    value = export_space(registry, "tiny", str(tmp_path / "out"))
    _, space = open_space(registry, "tiny")
    back = import_space(registry, "again", str(tmp_path / "out"))
    assert back["digest"] == value["digest"] == space.digest
    assert back["space"] == "tiny@1"
    cut = import_space(registry, "cut", str(tmp_path / "out"), components=3)
    assert (cut["space"], cut["components"]) == ("cut@1", 3)
    _, short = open_space(registry, "cut")
    np.testing.assert_array_equal(short.components, space.components[:, :3])


def test_a_tampered_or_missing_export_is_refused(registry: Registry, loras: Path, tmp_path: Path) -> None:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    export_space(registry, "tiny", str(tmp_path / "out"))
    file = tmp_path / "out" / "space.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises((IntegrityError, BadFile)):
        import_space(registry, "bad", str(tmp_path / "out"))
    with pytest.raises(RegistryError):
        import_space(registry, "bad", str(tmp_path / "nowhere"))
    assert [row["space"] for row in list_spaces(registry)] == ["tiny@1"]


def test_refit_without_a_subject(registry: Registry, loras: Path) -> None:
    fit_space(registry, "draft", [str(loras)], base_model=BASE)
    for i in (7, 8):
        add(registry, AddRequest([str(loras / f"p{i:04d}")], subjects=(f"s-{i}",)))
    others = [str(loras / f"p{i:04d}") for i in range(80) if i not in (7, 8)]
    add(registry, AddRequest(others, subjects=("s-others",)))
    first = fit_space(registry, "tiny", [str(loras)], base_model=BASE, components=10)
    add(registry, AddRequest([str(loras)], space="tiny"))
    value = refit_space(registry, "tiny", without=["s-7", "s-8"])
    assert (value["space"], value["fit_size"], value["refit_of"]) == ("tiny@2", 78, first["space"])
    assert value["placed"] == 80
    assert search(registry, "p0003", space="tiny@2", limit=1).results[0].identity == "p0003"
    with registry.catalog.read() as session:
        here = (Space.name == "tiny") & (Space.number == 2)
        members = session.execute(select(SpaceMember.name).join(Space, Space.id == SpaceMember.space_id).where(here))
        assert not {"p0007", "p0008"} & {name for (name,) in members}
