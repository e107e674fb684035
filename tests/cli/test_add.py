"""``add`` on a bare machine: what it says, what it asks, and the JSON programs read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.services.identities.folder import make_folder
from tests.services.world import make_world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "folder", make_world(), others=2)


def test_one_command_from_nothing(run: Run, folder: Path) -> None:
    code, out, _ = run("add", folder, "--dry-run", "--json")
    planned = json.loads(out)
    assert code == 0
    code, _, err = run("add", folder, "--json")
    assert code == 3  # nothing is made unasked
    assert "--yes" in err
    code, out, _ = run("add", folder, "--yes", "--json")
    done = json.loads(out)
    assert code == 5
    assert done["counts"] == planned["counts"] == {"added": 25, "existing": 4, "failed": 6, "skipped": 3}
    for name, count in done["counts"].items():
        assert len(done[name]) == count
        assert {one["file"] for one in done[name]} == {one["file"] for one in planned[name]}
        assert all(one["reason"] for one in done[name] if name != "added")
        assert all(one["identity"] for one in done[name] if name != "skipped")
    assert {Path(one["file"]).name for one in done["skipped"]} >= {"old.ckpt", "learned_embeds.safetensors"}
    assert [one["cure"] for one in done["skipped"] if one["file"].endswith(".ckpt")] == ["save it as safetensors"]
    assert done["spaces"] == planned["spaces"] == ["base-r1@1"]
    assert len(done["identities"]) == 25 + 4 + 6
    code, out, _ = run("search", "p0007", "-k", "1", "--json")
    assert json.loads(out)["results"][0]["identity"] == "p0007"


def test_what_a_person_reads_fits_a_screen(run: Run, folder: Path) -> None:
    _, out, err = run("add", folder, "--yes")
    lines = (out + err).splitlines()
    assert len(lines) < 40
    assert re.search(r"25 added \(\d+ in (space \S+|\d+ spaces), \d+ in none\), 4 already there, 6 failed", err)
    assert "4 failed: too short for a safetensors file" in err
    assert "w2w-reg search" in err


def test_what_is_in_no_space_is_verified_as_what_is_in_one(run: Run, folder: Path) -> None:
    run("add", folder, "--yes")
    rows = json.loads(run("list", "--json")[1])
    outside = next(row["identity"] for row in rows if row["space"] is None)
    assert run("verify", outside)[0] == 0
    assert run("audit", "query", "mismatched", "--json")[:2] == (0, "[]\n")


def test_labels_notes_and_names(run: Run, folder: Path, tmp_path: Path) -> None:
    run("add", folder, "--yes")
    assert run("label", "set", "dora", "beard=1", "--json")[0] == 0
    (tmp_path / "labels.csv").write_text("id,hat\ndora,1\nnobody,1\n")
    code, out, _ = run("label", "import", tmp_path / "labels.csv", "--json")
    assert (code, json.loads(out)["unmatched"]) == (0, ["nobody"])
    assert run("note", "dora", "from May")[0] == 0
    assert run("rename", "dora", "styles/dora")[0] == 0
    shown = json.loads(run("show", "styles/dora", "--json")[1])
    assert (shown["labels"], shown["adapter"]) == ({"beard": 1.0, "hat": 1.0}, "DoRA")
    assert shown["tags"] == {"note": "from May"}


def test_one_space_accounts_for_every_file_too(run: Run, folder: Path, tmp_path: Path) -> None:
    run("add", folder / "people", "--yes")
    (tmp_path / "labels.csv").write_text("id;hat\nP0000-COPY;1\nnobody;0\n")
    options = ("--space", "base-r1", "--labels", tmp_path / "labels.csv", "--json")
    done = json.loads(run("add", folder, *options)[1])
    assert {Path(one["file"]).name for one in done["skipped"]} == {"old.ckpt"}
    assert done["unmatched_labels"] == ["nobody"]
    copy = next(one for one in done["existing"] if one["file"].endswith("p0000-copy.safetensors"))
    assert (copy["identity"], copy["updated"]) == ("p0000", ["hat"])
