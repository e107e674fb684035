"""A registry to type commands at: fitted and filled once, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.world import BASE, make_world
from w2w_registry.cli.app import cli, main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(50).write(tmp_path_factory.mktemp("cli") / "loras", range(50))


@pytest.fixture(scope="session")
def filled_home(loras: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the space ``tiny`` and the identities p0000 to p0049."""
    home = tmp_path_factory.mktemp("cli") / "home"
    for command in (["init"], ["space", "fit", "tiny", str(loras), "--base-model", BASE], ["add", str(loras)]):
        cli.main(["--home", str(home), *command], standalone_mode=False)
    return home


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Types a command at the registry in ``tmp_path/home``: its exit code, stdout and stderr."""
    monkeypatch.setenv("W2W_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("W2W_DATABASE_URL", raising=False)

    def call(*args: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in args])
        out, err = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 1), out, err

    return call


@pytest.fixture
def filled(filled_home: Path, run: Run, tmp_path: Path) -> Run:
    shutil.copytree(filled_home, tmp_path / "home")
    return run
