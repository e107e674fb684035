"""What a slip of the hand leads to: an error that names it, never a wrong answer and never a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run
from tests.cli.walk import OUTPUTS, paths_of_commands
from tests.services.world import BASE
from w2w_registry.lora import read_lora, write_lora


def value(run: Run, *args: str | Path) -> Any:
    code, out, err = run(*args, "--json")
    assert code == 0, err
    return json.loads(out)


def refused(run: Run, *args: str | Path, code: int = 2) -> str:
    """The one line an error is."""
    found, out, err = run(*args)
    assert (found, out) == (code, ""), err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1
    return err


def test_history_of_an_identity_without_aliases(filled: Run) -> None:
    assert value(filled, "history", "p0001") == []
    assert filled("history", "p0001")[1] == "no alias was ever set\n"


@pytest.mark.parametrize("other", ["--exact", "--certified"])
def test_a_search_that_may_miss_someone_proves_nothing(filled: Run, other: str) -> None:
    assert "--fast may miss matches" in refused(filled, "search", "p0001", "--fast", other)
    assert value(filled, "search", "p0001", "--fast", "-k", "1")["certainty"] == "exact"  # everyone, where they are few


def test_a_search_says_what_comparing_what_is_drawn_lacks(filled: Run, loras: Path, tmp_path: Path) -> None:
    """The base model where it is not known, fingerprints where it is."""
    pytest.importorskip("diffusers")
    changed = {
        k: np.concatenate([v, v], 0 if k[1] == "A" else 1) for k, v in read_lora(loras / "p0001").tensors.items()
    }
    write_lora(tmp_path / "odd", changed, 1.0, base_model=BASE)
    assert filled("add", tmp_path / "odd")[0] == 0
    assert "use --by behaviour --pipeline FOLDER" in filled("search", "odd")[2]
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_text("{}")
    assert filled("config", "set", f"pipelines.{BASE}", tmp_path / "base")[0] == 0
    assert "`w2w-reg fingerprint --missing`" in filled("search", "odd")[2]


@pytest.mark.parametrize("number", ["9999999999", "99999999999999999999", "9" * 5000])
def test_version_numbers_no_database_holds(filled: Run, number: str) -> None:
    assert "at most 9 digits" in refused(filled, "show", f"p0001@{number}")
    assert "at most 9 digits" in refused(filled, "space", "show", f"tiny@{number}")
    assert "numbered from 1" in refused(filled, "show", "p0001@0")
    assert "numbered from 1" in refused(filled, "space", "show", "tiny@00")


@pytest.mark.parametrize(
    "args",
    [
        ("list", "--limit", "99999999999999999999"),
        ("audit", "prove", "99999999999999999999"),
        ("audit", "query", "expiring", "--days", "99999999999"),
        ("sample", "--seed", "99999999999999999999"),
    ],
)
def test_numbers_beyond_all_use(filled: Run, args: tuple[str, ...]) -> None:
    told = refused(filled, *args)
    assert "is too large: at most" in told or "is not in the range" in told


def test_blocked_matches_obey_where(filled: Run, loras: Path) -> None:
    filled("add", loras / "p0001", loras / "p0002", "--subject", "s-7", "--evidence", __file__)
    filled("consent", "withdraw", "s-7")
    filled("tag", "set", "p0002", "team=ads")

    def found(*more: str) -> set[str]:
        return {hit["identity"] for hit in value(filled, "search", "p0000", "-k", "50", *more)["results"]}

    assert len(found()) == 48
    assert len(found("--include-blocked")) == 50
    assert found("--include-blocked", "--where", "tag.team = ads") == {"p0002"}
    assert found("--include-blocked", "--where", "name in (p0001, p0003)") == {"p0001", "p0003"}


def test_space_list_counts_who_is_served(filled: Run) -> None:
    assert value(filled, "space", "list")[0]["identities"] == 50
    value(filled, "remove", "p0003", "--yes")
    assert value(filled, "space", "list")[0]["identities"] == 49
    assert value(filled, "space", "show", "tiny")["identities"] == 49


def test_unknown_fields_and_values_of_where(filled: Run) -> None:
    filled("tag", "set", "p0001", "rating=10")
    assert "no field or label is named 'format'" in (error := refused(filled, "list", "--where", "format = kohya"))
    assert "fields: name, kind" in error
    assert "did you mean kind" in refused(filled, "list", "--where", "knd = person")
    error = refused(filled, "list", "--where", "kind = Person")
    assert "'Person'" in error
    assert "person, product" in error
    assert "active, blocked" in refused(filled, "search", "p0001", "--where", "state in (active, gone)")
    for command in (("search", "p0001"), ("releases",), ("audit", "query")):
        assert "no field or label" in refused(filled, *command, "--where", "bread > 0.5")
    assert value(filled, "list", "--where", "label.bread > 0.5") == []
    # a tag is shown as "rating = 10", which is not how it is asked for
    assert "did you mean tag.rating?" in refused(filled, "list", "--where", "rating = 10")
    assert [row["identity"] for row in value(filled, "list", "--where", "tag.rating = 10")] == ["p0001"]


def test_tags_that_are_numbers_compare_as_numbers(filled: Run) -> None:
    for name, rating in (("p0001", "10"), ("p0002", "4.0"), ("p0003", "3"), ("p0004", "good"), ("p0005", "007")):
        filled("tag", "set", name, f"rating={rating}")

    def found(where: str) -> list[str]:
        return [row["identity"] for row in value(filled, "list", "--where", where)]

    assert found("tag.rating >= 4") == ["p0001", "p0002"]
    assert found("tag.rating < 4") == ["p0003"]
    assert found("tag.rating = 4") == ["p0002"]
    assert found("tag.rating = 007") == ["p0005"]
    assert found("tag.rating = '4'") == []
    assert found("tag.rating in (3, good)") == ["p0003", "p0004"]
    assert found("tag.rating != 4") == ["p0001", "p0003", "p0004", "p0005"]


def test_import_with_identities_of_a_space_that_has_none(filled: Run, tmp_path: Path) -> None:
    filled("space", "export", "tiny", tmp_path / "exported")
    other = ("--home", tmp_path / "other")
    filled("init", *other)
    command = ("space", "import", "faces", tmp_path / "exported", "--identities", *other)
    assert "--identities" in refused(filled, *command, code=5)
    assert value(filled, "space", "list", *other) == []


def consenting(run: Run, lora: Path) -> None:
    """Let the one whom a registered LoRA depicts allow everything."""
    assert run("add", lora, "--subject", "s-1", "--evidence", __file__)[0] == 0
    assert run("consent", "grant", "s-1", "--purpose", "any")[0] == 0


def outputs(tmp_path: Path) -> list[tuple[Path, tuple[str | Path, ...]]]:
    """Commands that write a file where they are told, each with the file."""
    out = tmp_path / "out"
    return [
        (out / "sheet.png", ("search", "p0001", "--sheet", out / "sheet.png")),
        (out / "report.md", ("audit", "report", "--out", out / "report.md")),
        (out / "log.jsonl", ("audit", "export", out / "log.jsonl")),
        (out / "note.txt", ("audit", "checkpoint", "--out", out / "note.txt")),
        (out / "proof.json", ("audit", "prove", "2", "--out", out / "proof.json")),
        (out / "space" / "space.json", ("space", "export", "tiny", out / "space")),
        (out / "lora" / "adapter_config.json", ("export", "p0007", out / "lora")),
        (out / "roi.html", ("report", "roi", "--out", out / "roi.html")),
        (out / "roi.csv", ("report", "roi", "--out", out / "roi.csv")),
        (out / "subject.html", ("report", "subject", "s-1", "--out", out / "subject.html")),
        (out / "receipt.md", ("consent", "withdraw", "s-1", "--receipt", out / "receipt.md")),
    ]


UNFORCED = {
    "train out": "trained again, a folder goes on where it stopped",
    "generate out": "a folder of pictures, each named by what drew it",
    "audit publish out": "the published log grows in its folder",
    "consent sign out": "never replaces a file",
    "sign new_key": "never replaces a key",
}


def test_every_command_that_writes_a_file_asks_before_it_replaces_one() -> None:
    asked = {f"{name} {one.name}": {o.name for o in command.params} for name, command, one in paths_of_commands()}
    written = {name: params for name, params in asked.items() if name.split()[-1] in OUTPUTS}
    assert {name for name, params in written.items() if "force" not in params} == set(UNFORCED)


def test_nothing_is_overwritten_unasked(filled: Run, loras: Path, tmp_path: Path) -> None:
    consenting(filled, loras / "p0007")
    for path, command in outputs(tmp_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        assert f"{path} exists; add --force" in refused(filled, *command, code=7)
        assert path.read_text() == "mine"
        code, _, err = filled(*command, "--force")
        assert code == 0, (command, err)
        assert path.read_bytes() != b"mine"
        path.unlink()
        os.mkfifo(path)  # as a device would be: replaced by a file, it would be gone for everybody
        assert "not an ordinary file" in refused(filled, *command, "--force", code=7)
        assert path.is_fifo()


def test_the_name_of_the_output_is_no_file_to_replace(filled: Run, tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert "not an ordinary file" in refused(filled, "audit", "export", tmp_path / "stdout", "--force", code=7)
    assert "exists" in refused(filled, "audit", "export", tmp_path / "nowhere", code=7)
    assert "not an ordinary file" in refused(filled, "backup", "/dev/null", "--force", code=7)


def contents(home: Path) -> dict[Path, bytes]:
    """Every file but the one that remembers when somebody last looked."""
    return {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and not p.name.endswith("-seen")}


def test_nothing_is_written_among_the_registrys_own(filled: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "link").symlink_to(home)
    before = contents(home)
    for out in (home / "registry.toml", home / "catalog.db", home / "new.md", tmp_path / "link" / "new.md"):
        assert "the registry's own folder" in refused(filled, "audit", "export", out, "--force")
        assert "the registry's own folder" in refused(filled, "search", "p0001", "--sheet", out, "--force")
    assert contents(home) == before


def test_an_export_may_be_repeated(filled: Run, loras: Path, tmp_path: Path) -> None:
    """The same bytes again are no overwriting."""
    consenting(filled, loras / "p0007")
    first = value(filled, "export", "p0007", tmp_path / "lora")
    assert value(filled, "export", "p0007", tmp_path / "lora") == first


def test_an_edit_named_twice_and_what_needs_one(filled: Run, loras: Path, tmp_path: Path) -> None:
    consenting(filled, loras / "p0001")
    twice = ("--edit", "beard=1", "--edit", "beard=2")
    assert "beard is named twice" in refused(filled, "edit", "p0001", *twice, "--name", "e")
    former = ("--direction", "beard=1", *twice[:2])
    assert "beard is named twice" in refused(filled, "edit", "p0001", *former, "--name", "e")
    both = ("--edit", "hat=on", "--edit", "beard=1")
    assert "hat" in refused(filled, "edit", "p0001", *both, "--name", "e", code=3)
    for option in (("--strengths", "-1:1:3"), ("--keep", "beard"), ("--from-timestep", "600"), ("--local", "0.5")):
        assert f"{option[0]} without an edit" in refused(filled, "generate", "p0001", "--out", tmp_path / "o", *option)


def test_purposes_nobody_knows(filled: Run) -> None:
    grant, some = ("consent", "grant", "s-1"), ("--purpose", "any")
    assert "did you mean research?" in refused(filled, *grant, "--purpose", "reserch")
    assert "did you mean advertising?" in refused(filled, *grant, *some, "--forbid", "advertizing")
    assert "did you mean publish?" in refused(filled, "consent", "request", "s-1", *some, "--forbid", "publsh")
    assert "'GERMANY' is not a territory" in refused(filled, *grant, *some, "--territory", "Germany")
    assert value(filled, "subject", "list") == []
    granted = value(filled, "consent", "grant", "s-1", "--purpose", "casting")
    assert "'casting'" in granted["warnings"][0]
    assert "did you mean research?" in refused(filled, "consent", "narrow", "s-1", "--purpose", "reserch")


def test_a_registry_may_name_purposes_of_its_own(filled: Run, tmp_path: Path) -> None:
    (tmp_path / "home" / "registry.toml").write_text('[policy]\npurposes = ["casting", "reserch"]\n')
    assert filled("policy", "set")[0] == 0
    for purpose in ("casting", "reserch"):
        warnings = value(filled, "consent", "grant", "s-1", "--purpose", purpose)["warnings"]
        assert not [warning for warning in warnings if purpose in warning]


def test_a_misspelt_rule_is_no_rule(filled: Run, tmp_path: Path) -> None:
    (tmp_path / "home" / "registry.toml").write_text("[policy]\nunkown = []\n")
    assert "unknown setting unkown in [policy]" in refused(filled, "list", code=8)


@pytest.mark.parametrize("url", ["foo://x/y", "gcs://bucket/x"])
def test_an_artifact_store_that_cannot_be(run: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("W2W_ARTIFACTS", url)
    assert url in refused(run, "list", code=8)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("calibrate", "--repeats", "/dev/zero"), "'/dev/zero' is not a folder"),
        (("direction", "fit", "no name", "--attribute", "x"), "direction name 'no name' is not allowed"),
        (("tag", "set", "a", "k=v", "--where", "kind = person"), "give names or --where, not both"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(filled: Run, line: tuple[str, ...], told: str) -> None:
    assert told in refused(filled, *line, code=2)


def test_a_database_driver_that_is_none(run: Run) -> None:
    for driver in ("foo", "psycopg2"):
        told = refused(run, "--database", f"postgresql+{driver}://u:secret@h/d", "list", code=8)
        assert "the driver here is psycopg" in told
    assert "secret" not in refused(run, "--database", "postgresql://u:secret@h:port/d", "init", code=8)


@pytest.mark.parametrize(
    "line",
    [
        ("list", "--limit", "2", "--limit", "3"),
        ("search", "p0001", "-k", "1", "--limit", "2"),
        ("space", "import", "x", "y", "--identities", "--no-identities"),
        ("add", "nowhere", "--kind", "style", "--kind", "person"),
    ],
)
def test_an_option_given_twice(filled: Run, line: tuple[str, ...]) -> None:
    assert "is given 2 times; give it once" in refused(filled, *line)


@pytest.mark.parametrize(
    "line",
    [
        ("add", ""),
        ("search", "p0001", ""),
        ("list", ""),
        ("takedown", ""),
        ("show", "p0001", "--home", ""),
        ("tag", "set", "--where", "", "team=ads"),
        ("generate", "p0001", "--out", ""),
        ("consent", "show", ""),
    ],
)
def test_a_variable_that_is_not_set(filled: Run, line: tuple[str, ...]) -> None:
    assert "is empty" in refused(filled, *line)


def test_prose_may_be_empty_and_so_may_what_is_empty_when_not_given(filled: Run) -> None:
    assert filled("note", "p0001", "")[0] == 0
    assert filled("edit", "p0001", "--edit", "x=1", "--keep", "", "--name", "y")[0] == 4  # nobody agreed


def test_the_folder_at_hand_is_a_path_as_any_other(filled: Run, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(loras / "p0001")
    assert filled("add", ".", "--dry-run")[0] == 0
    assert [one["identity"] for one in value(filled, "add", ".")["existing"]] == ["p0001"]
    (loras / "p0001" / "inner").mkdir()
    monkeypatch.chdir(loras / "p0001" / "inner")
    assert [one["identity"] for one in value(filled, "add", "..")["existing"]] == ["p0001"]


def test_a_flag_given_twice_and_a_repeatable_option(filled: Run) -> None:
    assert value(filled, "list", "--json", "--limit", "1")
    assert filled("add", "nowhere", "--subject", "a", "--subject", "b")[0] == 5


def test_a_command_of_a_group_typed_without_it(filled: Run) -> None:
    assert "Did you mean 'consent withdraw'?" in refused(filled, "withdraw", "s-1")
    assert "Did you mean 'consent grant'?" in refused(filled, "grant", "s-1")


def test_options_nobody_meant(filled: Run) -> None:
    assert "Did you mean '--publication'?" in refused(filled, "consent", "grant", "s-1", "--publish")
    assert "Did you mean" not in refused(filled, "subject", "assign", "p0001", "--subject", "s-1")


def test_questions_and_what_they_are_about(filled: Run) -> None:
    assert filled("subject", "add", "s-1")[0] == 0
    assert value(filled, "audit", "query", "subject", "s-1") == value(
        filled, "audit", "query", "subject", "--subject", "s-1"
    )
    assert "one argument too many" in refused(filled, "audit", "query", "held", "s-1")
    assert "does not use --subject" in refused(filled, "audit", "query", "held", "--subject", "s-1")


def test_what_is_misspelt_is_named(filled: Run) -> None:
    assert filled("label", "set", "p0001", "mood=glad")[0] == 0
    assert filled("tag", "set", "p0001", "team=ads")[0] == 0
    assert filled("collection", "add", "pals", "p0001")[0] == 0
    assert "did you mean mood?" in refused(filled, "label", "unset", "p0001", "mod", code=3)
    assert "did you mean team?" in refused(filled, "tag", "unset", "p0001", "teem", code=3)
    assert "did you mean pals?" in refused(filled, "collection", "show", "palz", code=3)
    assert "`w2w-reg collection list`" in refused(filled, "collection", "show", "enemies", code=3)
    assert "there is no kind 'Persn', only person, product" in refused(filled, "list", "--where", "kind = Persn")
    assert "say --stars 4" in refused(filled, "rate", "p0001", "4")


def test_the_old_name_of_an_identity_leads_to_the_new_one(filled: Run) -> None:
    assert filled("rename", "p0001", "anna")[0] == 0
    assert "it was renamed, and is now anna" in refused(filled, "show", "p0001", code=3)
    assert filled("rename", "anna", "p0001")[0] == 0
    assert filled("show", "p0001")[0] == 0
    assert "'p0002' exists" in refused(filled, "rename", "p0001", "p0002", code=7)


def test_a_file_that_is_not_there_is_called_one(filled: Run) -> None:
    assert "there is no file photos/me.jpg" in refused(filled, "search", "photos/me.jpg", code=3)


def test_a_database_that_holds_no_registry_is_named(run: Run, tmp_path: Path) -> None:
    assert f"no registry in {tmp_path / 'other.db'};" in refused(
        run, "--database", f"sqlite:///{tmp_path / 'other.db'}", "list", code=3
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("sample --steps 5", "--steps has no effect without --sheet"),
        ("sample --device cpu", "--device has no effect without --sheet"),
        ("list --force", "--force has no effect without --sheet"),
        ("list --csv --json", "--csv and --json cannot be combined"),
        ("search p0001 --by weights --device cpu", "--device is for comparing what is drawn"),
        ("lineage p0001 --dot --svg", "--dot and --svg cannot be combined"),
        ("lineage p0001 --prov --json", "--prov and --json cannot be combined"),
        ("groups --force", "--force has no effect without --sheet"),
        ("audit checkpoint --force", "--force has no effect without --out"),
        ("report roi --lang ja", "--lang has no effect without --out"),
        ("consent withdraw s-1 --force", "--force has no effect without --receipt"),
        ("consent grant s-1 --purpose any --keep-evidence", "--keep-evidence has no effect without --evidence"),
        ("consent narrow s-1", "say what to narrow"),
        ("consent check p0001 --territory Narnia", "'Narnia' is not a territory"),
        ("consent check p0001 --use drawing", "no use is named 'drawing'; uses are register"),
        ("verify p0001 --key pub.pem", "--key, --identity and --issuer are for a signed folder; p0001 is none"),
        ("fingerprint --all --missing", "--all and --missing cannot be combined"),
        ("push p0001 acme/a --private --public", "--private and --public cannot be combined"),
        ("push --cancel acme/a --gated", "--cancel takes only the repo"),
        ("sign folder --key a.pem --ambient", "--key, --new-key and --ambient cannot be combined"),
        ("add folder --name x --prefix acme/", "--prefix and --name cannot be combined"),
        ("add folder --evidence form.pdf", "--evidence has no effect without --subject"),
    ],
)
def test_an_option_without_effect_is_an_error(filled: Run, typed: str, said: str) -> None:
    code, out, err = filled(*typed.split())
    assert (code, out) == (2, "")
    assert said in err


def test_a_base_model_that_is_nowhere_is_said_once(filled: Run) -> None:
    pytest.importorskip("diffusers")
    assert refused(filled, "fingerprint", "p0001", "--pipeline", "/nowhere", code=3).startswith(
        "error: no diffusers pipeline (a folder with model_index.json) named '/nowhere'"
    )


@pytest.mark.parametrize("command", ["list", "init", "doctor", "stats", "db current", "db check", "db upgrade"])
def test_a_catalog_that_is_gone_is_never_made_anew(filled: Run, tmp_path: Path, command: str) -> None:
    """Its files are there: a new catalog would know none of them, and hide the loss."""
    catalog = tmp_path / "home" / "catalog.db"
    for one in tmp_path.glob("home/catalog.db*"):
        one.write_bytes(b"")
    code, out, err = filled(*command.split())
    assert code
    assert "restore the catalog from a backup" in out + err
    assert "w2w-reg init" not in out + err
    assert catalog.read_bytes() == b""


def test_nothing_leaves_a_collection_that_is_not_there(filled: Run) -> None:
    filled("collection", "add", "summer", "p0001")
    assert "did you mean summer" in refused(filled, "collection", "remove", "sumer", "p0001", code=3)
