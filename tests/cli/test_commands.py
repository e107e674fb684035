"""The commands as a person types them: output, JSON, exit codes, one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run
from tests.services.world import BASE, make_world
from w2w_registry.catalog.types import Json
from w2w_registry.lora import write_lora


def test_the_main_job(filled: Run, loras: Path) -> None:
    code, out, _ = filled("search", loras / "p0007", "-k", "2", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["results"][0]["identity"] == "p0007"
    code, out, err = filled("search", "p0007")
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["1", "p0007"]
    assert "same identity from" in err


def test_add_counts_and_exit_codes(filled: Run, loras: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    make_world(52).write(tmp_path / "new", range(51, 52))
    code, out, err = filled("add", tmp_path / "broken.safetensors", tmp_path / "new", loras / "p0001", "--json")
    value = json.loads(out)
    assert value["counts"] == {"added": 1, "existing": 1, "failed": 1, "skipped": 0}
    assert value["failed"][0]["path"].endswith("broken.safetensors")
    assert code == 5
    assert len(value["identities"]) == 3
    assert "broken.safetensors" in value["identities"][0]["error"]
    code, _, err = filled("add", tmp_path / "broken.safetensors")
    assert code == 5
    assert err.count("\n") == 2  # the file's line and the count


def test_json_of_everything_that_prints_data(filled: Run) -> None:
    assert json.loads(filled("list", "--json", "--limit", "2")[1])[0]["identity"] == "p0000"
    assert json.loads(filled("show", "p0001", "--json")[1])["versions"][0]["version"] == 1
    assert json.loads(filled("space", "list", "--json")[1])[0]["space"] == "tiny@1"
    assert json.loads(filled("space", "show", "tiny", "--json")[1])["fit_size"] == 50
    assert json.loads(filled("alias", "set", "live", "p0001", "--json")[1])["version"] == 1
    assert json.loads(filled("history", "p0001", "--json")[1])[0]["alias"] == "live"
    assert json.loads(filled("tag", "set", "p0001", "team=ads", "--json")[1])["tags"] == {"team": "ads"}
    assert json.loads(filled("db", "check", "--json")[1])["differences"] == []
    assert json.loads(filled("remove", "p0001", "--dry-run", "--json")[1])["performed"] is False


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("search", "nobody"), 3, "no identity named 'nobody'"),
        (("search", "p00007"), 3, "did you mean"),
        (("show", "p0001@9"), 3, "p0001@9"),
        (("list", "--where", "kind ="), 2, "--where does not parse"),
        (("list", "--sort", "beauty"), 2, "cannot sort"),
        (("add", "/nowhere/x.safetensors"), 5, "/nowhere/x.safetensors"),
        (("add", "loras", "--kind", "ghost"), 2, "'ghost' is not one of 'person'"),
        (("space", "show", "faces"), 3, "no space named 'faces'"),
        (("alias", "set", "9", "p0001"), 2, "alias name"),
        (("tag", "set", "p0001", "team"), 2, "KEY=VALUE"),
        (("search", "./missing.safetensors"), 5, "missing.safetensors"),
    ],
)
def test_a_mistake_is_one_clear_line(filled: Run, args: tuple[str, ...], code: int, says: str) -> None:
    found, out, err = filled(*args)
    assert found == code
    assert says in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if "error:" in line or "warning:" in line]) == 1
    assert out == ""


def test_errors_as_json(filled: Run) -> None:
    code, _, err = filled("show", "nobody", "--json")
    error = json.loads(err)["error"]
    assert (code, error["code"], error["exit_code"]) == (3, "not-found", 3)


def test_without_a_registry(run: Run) -> None:
    code, _, err = run("list")
    assert code == 3
    assert "w2w-reg init" in err


def test_init_twice_changes_nothing(run: Run) -> None:
    assert json.loads(run("init", "--json")[1])["created"] is True
    assert json.loads(run("init", "--json")[1])["created"] is False


def test_remove_needs_yes(filled: Run) -> None:
    assert filled("remove", "p0002")[0] == 2
    assert filled("remove", "p0002", "--yes")[0] == 0
    assert filled("show", "p0002")[0] == 3


def test_home_after_the_command_too(run: Run, tmp_path: Path) -> None:
    assert run("init", "--home", tmp_path / "elsewhere")[0] == 0
    assert (tmp_path / "elsewhere" / "catalog.db").exists()
    assert run("--home", tmp_path / "elsewhere", "list")[0] == 0


def test_control_characters_in_names_are_harmless(filled: Run) -> None:
    _, _, err = filled("show", "\x1b[31mred\nline")
    assert "\x1b[31mred" not in err
    assert err.count("\n") == 1


def test_a_sheet_of_query_and_matches(run: Run, loras: Path, tmp_path: Path) -> None:
    from PIL import Image

    own = make_world(50).write(tmp_path / "with-preview", range(2))
    Image.new("RGB", (600, 300), "red").save(own / "p0001" / "preview.png")
    run("init")
    run("space", "fit", "tiny", loras, "--base-model", BASE)
    run("add", own)
    assert "preview digest" in run("show", "p0001")[1]
    assert json.loads(run("show", "p0000", "--json")[1])["preview_digest"] is None
    assert run("search", own / "p0001", "--sheet", tmp_path / "sheet.png")[0] == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20)}
    assert (255, 0, 0) in colours
    assert (208, 208, 208) in colours


def test_one_file_of_enormous_values_leaves_the_others_alone(filled: Run, tmp_path: Path) -> None:
    """Squares of 3e38 overflow: whatever becomes of that file, those read with it are placed and found."""
    world = make_world(53)
    world.write(tmp_path / "new", range(50, 53))
    for name, share in (("huge", 1.0), ("spike", 0.001)):
        tensors = world.layout.unflatten(world.theta(1)).items()
        high = {key: np.where(np.arange(v.size).reshape(v.shape) < share * v.size, 3e38, v) for key, v in tensors}
        write_lora(
            tmp_path / "new" / name, {key: v.astype(np.float32) for key, v in high.items()}, 4.0, base_model=BASE
        )
    code, out, err = filled("add", tmp_path / "new", "--json")
    assert code == 0, err
    assert json.loads(out)["counts"] == {"added": 5, "existing": 0, "failed": 0, "skipped": 0}
    spaces = {row["identity"]: row["space"] for row in json.loads(filled("list", "--json")[1])}
    assert [spaces[name] for name in ("p0050", "p0051", "p0052")] == ["tiny@1"] * 3
    assert [spaces[name] for name in ("huge", "spike")] == [None] * 2
    assert json.loads(filled("search", "p0051", "-k", "1", "--json")[1])["results"][0]["identity"] == "p0051"


def test_a_list_decodes_each_space_once(filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A space's layout is its largest column: decoding it for every row took most of the time of a list."""
    decoded = []
    real = Json.process_result_value
    monkeypatch.setattr(Json, "process_result_value", lambda *given: decoded.append(given[1]) or real(*given))
    code, out, _ = filled("list", "--json")
    assert code == 0
    assert len(json.loads(out)) == 50
    assert sum('"tensors"' in str(text) for text in decoded) == 1
