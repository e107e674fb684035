"""Whatever opens a base model finds it where the settings say, and asks no network for one that is nowhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import w2w_registry
from w2w_registry.errors import NotFound
from w2w_registry.messages import message
from w2w_registry.services.recording.pipelines import saying_where, to_open
from w2w_registry.services.registry import init_registry, open_registry
from w2w_registry.settings import load_settings

ROOT = Path(w2w_registry.__file__).parent
KNOW_THE_WAY = {
    *("services/recording/fingerprints.py", "services/synthesis/engine.py"),
    *("services/recording/newcomers.py", "services/search/behaviour.py"),  # ask ``at_hand`` first
    "services/synthesis/train.py",  # without a space: only what was named
    "services/identities/translated.py",
    "services/recording/workers.py",  # what the command that sends work elsewhere has found
}


def test_a_strangers_name_of_a_base_model_is_one_word_of_the_command_to_type() -> None:
    assert saying_where("x; touch OWNED").startswith("`w2w-reg config set 'pipelines.x; touch OWNED' FOLDER`")


def test_where_it_is_said_to_be_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("said", "told", "hub/models--acme--cached/snapshots/c0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text("{}")
    (tmp_path / "hub" / "models--acme--cached" / "refs").mkdir()
    (tmp_path / "hub" / "models--acme--cached" / "refs" / "main").write_text("c0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    home = tmp_path / "home"
    init_registry(load_settings(home, env={}, actor="tester"))
    (home / "registry.toml").write_text(f'[pipelines]\n"acme/base" = "{tmp_path / "told"}"\n')
    with open_registry(load_settings(home, env={}, actor="tester")) as registry:
        assert to_open(registry, "acme/base", str(tmp_path / "said")) == (str(tmp_path / "said"), False)
        assert to_open(registry, "acme/base") == (str(tmp_path / "told"), True)
        assert to_open(registry, str(tmp_path / "said")) == (str(tmp_path / "said"), True)
        assert to_open(registry, "acme/cached") == ("acme/cached", True)
        with pytest.raises(NotFound) as nowhere:
            to_open(registry, "acme/nowhere")
        told = message(nowhere.value)
        assert "`w2w-reg config set pipelines.acme/nowhere FOLDER` says where it is, or give --pipeline FOLDER" in told


def test_nothing_else_opens_a_base_model() -> None:
    """Every service that opens one does so by ``to_open`` (or by what does)."""
    found = set()
    for path in (ROOT / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("load_model", "open_prober"):
                found.add(str(path.relative_to(ROOT)))
    assert found <= KNOW_THE_WAY
