"""Settings: what is in force and from where; one key changed, the rest of the file as it was."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from w2w_registry.errors import NotFound, SettingError, UsageError
from w2w_registry.services.recording import configuring
from w2w_registry.settings import TABLES, VALUES, load_settings
from w2w_registry.web.access import Role

FILE = """\
# kept
[policy]
purpose = "research"  # kept too

[pipelines]
"acme/base.v1" = "/nowhere"
# last words
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "registry.toml").write_text(FILE)
    (tmp_path / "models").mkdir()
    return tmp_path


def test_one_key_changes_and_the_rest_stays(home: Path) -> None:
    configuring.put(load_settings(home), "pipelines.acme/base.v1", str(home / "models"))
    configuring.put(load_settings(home), "hub.endpoint", "http://hub")
    text = (home / "registry.toml").read_text()
    assert all(line in text for line in ("# kept", 'purpose = "research"  # kept too', "# last words"))
    table = tomllib.loads(text)
    assert table["pipelines"] == {"acme/base.v1": str(home / "models")}
    assert load_settings(home).hub == {"endpoint": "http://hub"}
    configuring.put(load_settings(home), "hub.endpoint", None)
    assert load_settings(home).hub == {}
    with pytest.raises(NotFound):
        configuring.put(load_settings(home), "hub.endpoint", None)


def test_a_relative_place_is_meant_from_where_it_was_typed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home / "models")
    told = configuring.put(load_settings(home), "database.url", "sqlite:///x.db")
    assert told["missing"]
    configuring.put(load_settings(home), "artifacts.url", "files")
    monkeypatch.chdir(home)
    settings = load_settings(home)
    assert settings.database_url == f"sqlite:///{home}/models/x.db"
    assert settings.artifacts_url == str(home / "models" / "files")
    (home / "models" / "x.db").touch()
    told = configuring.put(load_settings(home), "database.url", f"sqlite:///{home}/models/x.db")
    assert not told["missing"]
    configuring.put(load_settings(home), "artifacts.url", "s3://bucket/files")
    assert load_settings(home).artifacts_url == "s3://bucket/files"


def test_a_password_is_neither_shown_nor_readable_by_others(home: Path) -> None:
    file = home / "registry.toml"
    told = configuring.put(load_settings(home), "database.url", "postgresql://u:geheim%40@db/r")
    assert told["value"] == "postgresql://u:***@db/r"
    assert load_settings(home).database_url == "postgresql://u:geheim%40@db/r"
    assert file.stat().st_mode & 0o077 == 0
    configuring.put(load_settings(home), "database.url", "postgresql://db/r")
    assert file.stat().st_mode & 0o077 == 0  # who could not read the file before cannot read what replaces it


def test_a_relative_place_in_the_file_is_meant_from_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "registry.toml").write_text("[database]\nurl = 'sqlite:///c.db'\n[artifacts]\nurl = '../files'\n")
    monkeypatch.chdir("/")
    settings = load_settings(home)
    assert settings.database_url == f"sqlite:///{home}/c.db"
    assert settings.artifacts_url == str(home / "../files")


def test_what_makes_no_sense_changes_nothing(home: Path) -> None:
    before = (home / "registry.toml").read_bytes()
    for key, value, error in (
        ("policy.purpose", "x", UsageError),
        ("nothing.at", "x", UsageError),
        ("hub.nothing", "x", UsageError),
        ("pipelines.a/b", str(home / "none"), SettingError),
        ("index.kind", "fiass", SettingError),
        ("index.url", "http://vectors", SettingError),
        ("web.port", "x", UsageError),
        ("web.max_upload_mb", "x", SettingError),
        ("web.max_upload_mb", "0", SettingError),
        ("web.max_upload_mb", "true", SettingError),
        ("web.hosts", "a", SettingError),
        ("web.read_only", "1", SettingError),
        ("web.default_role", "king", SettingError),
        ("hub.endpoint", "hub", SettingError),
        ("hub.signing_key", str(home / "none"), SettingError),
        ("database.url", "mysql://x/y", SettingError),
        ("artifacts.url", "foo://x", SettingError),
    ):
        with pytest.raises(error):
            configuring.put(load_settings(home), key, value)
    assert (home / "registry.toml").read_bytes() == before


def test_every_key_says_what_it_takes() -> None:
    """The keys that may be set are those of the tables, and of ``[web]`` those that its readers ask for."""
    named = {f"{table}.{name}" for table, names in TABLES.items() if table != "policy" for name in names or ()}
    web = Path(configuring.__file__).parents[2] / "web"
    read = {
        key for path in web.rglob("*.py") for key in re.findall(r"options\.get\(\"(\w+)\"", path.read_text("utf-8"))
    }
    assert named | {f"web.{key}" for key in read} == set(VALUES)
    assert VALUES["web.default_role"] == tuple(Role)


def test_where_a_value_comes_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2W_DATABASE_URL", "postgresql://team:secret@db/x")
    rows = {row["key"]: row for row in configuring.show(load_settings(home))}
    assert rows["database.url"]["source"] == "environment (W2W_DATABASE_URL)"
    assert "secret" not in str(rows)
    assert rows["policy.purpose"] == {"key": "policy.purpose", "value": "research", "source": "registry.toml"}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(blacklist_categories=("Cs",)), max_size=30))
def test_any_text_comes_back(tmp_path: Path, value: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(FILE)
    configuring.put(load_settings(tmp_path), "organisation.name", f"x {value}")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert table["organisation"]["name"] == f"x {value}"
    assert table["policy"] == {"purpose": "research"}
