"""The wheel as a user gets it: built, installed into a clean venv, used outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from w2w_registry.lora import write_lora
from w2w_registry.space.layout import Layout, layout_of

ROOT = Path(__file__).parents[2]


def run(*args: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run([str(a) for a in args], cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, f"{args}: {result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy, so that leftovers of earlier builds cannot hide a missing file.
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "w2w_registry", "cli", "migrations"):
        run("cp", "-r", ROOT / name, source, cwd=out)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``w2w-reg`` of a clean venv that holds the wheel; its dependencies come from the test venv by path."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home / "venv", with_pip=False)
    site = next((home / "venv").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    run(sys.executable, "-m", "pip", "-q", "--python", home / "venv", "install", "--no-deps", wheel, cwd=home)
    return home / "venv" / "bin" / "w2w-reg"


def tiny_loras(folder: Path, count: int = 60) -> Layout:
    """LoRAs of a made-up layout, near a plane, so that a space can be fitted."""
    rng = np.random.default_rng(0)
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn{}.to_{}"
    shapes = {}
    for attn in (1, 2):
        for part in "qv":
            shapes[(module.format(attn, part), "A")] = (1, 6)
            shapes[(module.format(attn, part), "B")] = (5, 1)
    layout = layout_of(shapes, alpha=4.0)
    # LoRAs of one recipe start from one A and leave it by little: people differ in B above all.
    moves = np.concatenate([np.full(t.size, 0.02 if t.factor == "A" else 1.0) for t in layout.tensors])
    mean, axes = 5 * rng.normal(size=layout.dim), rng.normal(size=(12, layout.dim)) * moves
    for i in range(count):
        theta = (mean + rng.normal(size=12) @ axes + 0.01 * moves * rng.normal(size=layout.dim)).astype(np.float32)
        write_lora(folder / f"p{i:04d}", layout.unflatten(theta), layout.alpha, fmt="peft", base_model="tiny/base")
    return layout


def test_wheel_carries_migrations_and_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "w2w_registry/py.typed" in names
    assert {f"w2w_registry/diffusion/fonts/{name}" for name in ("unifont.pcf.gz", "OFL.txt")} <= set(names)
    assert any(n.startswith("w2w_registry/migrations/versions/v0") for n in names)
    assert any(n.startswith("w2w_registry/cli/") for n in names)
    for top in ("w2w_registry", "cli", "migrations"):
        prefix = "" if top == "w2w_registry" else "w2w_registry/"
        missing = {f"{prefix}{p.relative_to(ROOT)}" for p in (ROOT / top).rglob("*.py")} - set(names)
        assert not missing, f"not in the wheel, see packages in pyproject.toml: {sorted(missing)}"
    tops = {n.split("/")[0] for n in names}
    assert all(t == "w2w_registry" or t.endswith(".dist-info") for t in tops), tops


def test_init_fit_add_search_outside_the_checkout(command: Path, tmp_path: Path) -> None:
    tiny_loras(tmp_path / "loras")
    env = {**os.environ, "W2W_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    origin = run(
        command.parent / "python", "-c", "import w2w_registry.cli as c; print(c.__file__)", cwd=tmp_path, env=env
    )
    assert str(ROOT) not in origin
    run(command, "init", cwd=tmp_path, env=env)
    run(command, "space", "fit", "tiny", "loras", "--base-model", "tiny/base", cwd=tmp_path, env=env)
    added = json.loads(run(command, "add", "loras", "--json", cwd=tmp_path, env=env))
    assert (len(added["added"]), added["failed"]) == (60, [])
    found = json.loads(run(command, "search", "loras/p0007", "-k", "3", "--json", cwd=tmp_path, env=env))
    assert found["results"][0]["identity"] == "p0007"
    assert found["results"][0]["score"] == pytest.approx(1.0, abs=1e-5)
