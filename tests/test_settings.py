"""Where things are, and which source wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2w_registry.errors import SettingError
from w2w_registry.settings import load_settings


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
