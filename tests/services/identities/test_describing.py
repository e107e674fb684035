"""Labels, notes and names given after an identity was added."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.world import BASE
from w2w_registry.errors import Conflict, NotFound
from w2w_registry.services.identities import describing, manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording.labels import match_names
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space


@pytest.fixture
def filled(registry: Registry, loras: Path) -> Registry:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras / f"p{i:04d}") for i in range(3)]))
    return registry


def test_labels_set_changed_and_taken_away(filled: Registry) -> None:
    assert describing.label(filled, "p0001", {"beard": 1.0, "team": "ads"})["updated"] == ["beard", "team"]
    assert describing.label(filled, "p0001", {"beard": 1.0, "team": "art"})["updated"] == ["team"]
    assert describing.unlabel(filled, "p0001", ["team"])["labels"] == {"beard": 1.0}
    with pytest.raises(NotFound):
        describing.unlabel(filled, "p0001", ["team"])


@pytest.mark.parametrize("mark", [",", ";"])
def test_labels_from_a_table(filled: Registry, tmp_path: Path, mark: str) -> None:
    table = tmp_path / "labels.csv"
    rows = ["id,beard", "P0001.safetensors,1", "p0002,0", "p0007,1", "misspelt,1"]
    table.write_text("\n".join(rows).replace(",", mark))
    done = describing.import_labels(filled, str(table))
    assert (done.updated, done.unmatched) == (("p0001", "p0002"), ("p0007", "misspelt"))
    assert manage.show(filled, "p0001")["labels"] == {"beard": 1.0}
    assert describing.import_labels(filled, str(table)).unchanged == ("p0001", "p0002")


def test_a_name_that_could_mean_two_is_left_alone() -> None:
    names = ["acme/ann", "team/ann", "acme/Ben", "cleo"]
    found = match_names(["ann", "acme/ann", "ben.safetensors", "CLEO", "nobody"], names)
    assert found == {"acme/ann": "acme/ann", "ben.safetensors": "acme/Ben", "CLEO": "cleo"}


def test_a_row_may_name_the_file_that_an_identity_was_named_by() -> None:
    rows = ["Anna Bell.safetensors", "v1.5 (final) [copy]", "loras/anna bell"]
    assert match_names(rows[:2], ["Anna-Bell", "v1.5-final-copy"]) == {rows[0]: "Anna-Bell", rows[1]: "v1.5-final-copy"}
    assert match_names(rows[2:], ["acme/Anna-Bell"]) == {rows[2]: "acme/Anna-Bell"}
    assert match_names(rows[2:], ["acme/Anna-Bell", "team/anna-bell"]) == {}


def test_note_and_name(filled: Registry) -> None:
    describing.note(filled, "p0001", "shot in May")
    assert manage.show(filled, "p0001")["tags"] == {"note": "shot in May"}
    describing.note(filled, "p0001", None)
    describing.rename(filled, "p0001", "acme/ann")
    assert manage.show(filled, "acme/ann")["versions"][0]["version"] == 1
    with pytest.raises(NotFound):
        manage.show(filled, "p0001")
    with pytest.raises(Conflict):
        describing.rename(filled, "acme/ann", "p0002")
