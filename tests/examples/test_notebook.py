"""The notebook runs from top to bottom, and finds whom it says it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "registry.ipynb"


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    texts = [_text(cell) for cell in notebook.cells if cell.cell_type == "code"]
    name, found, nearer = eval(next(t for t in texts if t.startswith("('p")))
    assert name == found
    assert nearer
    assert "export ('s-1',)" in "\n".join(texts)
    assert texts[-2] == "True"


def test_the_notebook_ships_without_outputs() -> None:
    cells: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")


def _text(cell: Any) -> str:
    """What a cell printed or gave, as text."""
    parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "\n".join(part.strip() for part in parts)
