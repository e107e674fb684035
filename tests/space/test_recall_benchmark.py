"""The benchmark behind docs/metric.md, on a small population with known noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.recall_metrics import main
from tests.space.spaces import make_layout, population


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = make_layout()
    truth = population(layout, 80, factors=20, noise=0.0)
    rng = np.random.default_rng(3)
    theta, again = (truth[:n] + 0.3 * rng.normal(size=(n, layout.dim)).astype(np.float32) for n in (80, 40))
    np.savez(tmp_path / "x.npz", theta=theta, retrained=again, fit=70, layout=json.dumps(layout.to_json()))
    main(["--loras", str(tmp_path / "x.npz"), "--components", "8", "20", "--json", str(tmp_path / "rows.json")])
    printed = capsys.readouterr().out
    assert "40 retrained LoRAs among 80 identities; space fitted on 70; D = 84." in printed
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = {(row["metric"], row["components"]): row for row in rows}
    assert len(found) == len(rows) == printed.count("\n| ") - 2
    for row in rows:
        assert 0 <= row["low"] <= row["recall_1"] <= row["high"] <= 1
        assert row["recall_1"] <= row["recall_10"]
    assert found[("coordinates (σ per parameter), cosine", 20)]["recall_1"] > 0.8
    assert [row["labels"] for row in rows].count(True) == 4
