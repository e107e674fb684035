"""The script for the card runs as it is, on small shapes and a processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import BENCHMARKS, main, sd15_layout


def test_every_row_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    out = tmp_path / "gpu.json"
    assert main(["--small", "--device", "cpu", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert len(rows) >= len(BENCHMARKS)
    for word in ("fit, held", "fit, streamed", "training", "inversion", "search"):
        assert any(word in row["name"] for row in rows)
    fits = [row for row in rows if row["name"] == "fit, held" and "captured against the peer's" in row["quality"]]
    assert fits[0]["quality"]["captured against the peer's"] > 0.999
    assert "| what | ours |" in capsys.readouterr().out


def test_the_full_size_is_the_papers() -> None:
    assert sd15_layout().dim == 99_648
    assert len(sd15_layout().modules) == 64
