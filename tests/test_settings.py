"""Where things are, and which source wins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from w2w_registry.errors import SettingError, UnknownSetting
from w2w_registry.settings import TABLES, load_settings

PACKAGE = Path(__file__).parents[1] / "w2w_registry"


def test_arguments_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    env = {"W2W_HOME": str(tmp_path), "USER": "someone"}
    assert load_settings(env=env).database_url == f"sqlite:///{tmp_path}/catalog.db"
    (tmp_path / "registry.toml").write_text('[database]\nurl = "postgresql://file/db"\n[policy]\npurpose = "art"\n')
    found = load_settings(env=env)
    assert (found.database_url, found.policy, found.actor) == ("postgresql://file/db", {"purpose": "art"}, "someone")
    env["W2W_DATABASE_URL"] = "postgresql://env/db"
    assert load_settings(env=env).database_url == "postgresql://env/db"
    assert load_settings(database="sqlite:///given.db", env=env).database_url == "sqlite:///given.db"
    assert load_settings(tmp_path / "other", env=env).home == tmp_path / "other"


@pytest.mark.parametrize("text", ["not toml [", "policy = 3\n", "\ufffe"])
def test_a_broken_file_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "registry.toml").write_text(text, "utf-8")
    with pytest.raises(SettingError):
        load_settings(tmp_path, env={})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[polcy]\npurpose = 'art'\n", "[polcy]"),
        ("[policy]\nunkown = []\n", "unkown in [policy]"),
        ("[hub]\nrequire_signatures = true\n", "require_signatures in [hub]"),
    ],
)
def test_what_nothing_reads_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    """A misspelt rule would silently be no rule."""
    (tmp_path / "registry.toml").write_text(text, "utf-8")
    with pytest.raises(UnknownSetting) as caught:
        load_settings(tmp_path, env={})
    assert caught.value.name == says
    assert set(caught.value.known) <= {f"[{table}]" for table in TABLES} | set().union(
        *(k or () for k in TABLES.values())
    )


def test_every_key_that_is_read_is_known() -> None:
    """The readers' literals, held against the list."""
    readers = {
        "hub": (r"settings\.hub\.get\(\"(\w+)\"", PACKAGE),
        "index": (r"options\.get\(\"(\w+)\"", PACKAGE / "index"),
        "policy": (r"_texts?\(table, \"(\w+)\"", PACKAGE / "consent"),
    }
    direct = r"settings\.(policy|hub|index)\.get\(\"(\w+)\""
    for path in PACKAGE.rglob("*.py"):
        for table, key in re.findall(direct, path.read_text("utf-8")):
            assert key in (TABLES[table] or ()), f"{path} reads {key} of [{table}]"
    for table, (pattern, folder) in readers.items():
        found = {key for path in folder.rglob("*.py") for key in re.findall(pattern, path.read_text("utf-8"))}
        assert found, table
        assert found <= (TABLES[table] or frozenset()), table


@pytest.mark.parametrize("url", ["foo://x/y", "gcs://bucket/x", "abfs://container/x"])
def test_artifacts_at_a_place_that_cannot_be_reached(url: str) -> None:
    from w2w_registry.artifacts import ArtifactStore

    with pytest.raises(SettingError) as caught:
        ArtifactStore(url)
    assert caught.value.value == url


def test_pipelines_say_where_base_models_lie(tmp_path: Path) -> None:
    text = '[pipelines]\n"SG161222/RV51" = "/models/rv51"\nmine = "base"\nhere = "~/models/x"\n'
    (tmp_path / "registry.toml").write_text(text)
    found = load_settings(tmp_path, env={}).pipelines
    assert found["SG161222/RV51"] == "/models/rv51"
    assert found["mine"] == str(tmp_path / "base"), "a relative folder is meant from the home folder"
    assert found["here"] == str(Path("~/models/x").expanduser())
    (tmp_path / "registry.toml").write_text("[pipelines]\nmine = 3\n")
    with pytest.raises(SettingError, match="mine"):
        load_settings(tmp_path, env={})
