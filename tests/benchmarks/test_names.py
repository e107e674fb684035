"""The table of who is held for not looking like the versions before it, on few people."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import names

PEOPLE = 120


def test_by_weights_another_training_keeps_its_name_and_nobody_takes_anothers() -> None:
    (_, _, own, others), (_, _, nobody, strangers) = names.weighed(PEOPLE)
    assert own is not None
    assert nobody is None
    assert own.shape == (PEOPLE,)
    assert own.mean() <= 0.05
    assert others.shape == (PEOPLE, names.OTHERS)
    assert min(others.mean(), strangers.mean()) >= 0.95


def test_by_what_is_drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(PEOPLE + 40, 64)) * np.linspace(3, 0.3, 64)
    again = {kind: people[:60] + 0.2 * rng.normal(size=(60, 64)) for kind in ("queries", "dora", "short")}
    of = dict.fromkeys(again, np.arange(60))
    monkeypatch.setattr(names, "by_kind", lambda: (people[:PEOPLE], again, of, people[PEOPLE:]))
    monkeypatch.setattr(names, "weighed", lambda _people: [])
    assert names.main(["--people", str(PEOPLE)]) == 0
    rows = [line.split("|")[2:5] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["retrained", "dora", "short", "strangers", "all finished trainings"]
    shares = {row[0].strip(): [cell.split()[0] for cell in row[1:]] for row in rows}
    assert float(shares["all finished trainings"][0]) <= 0.05
    assert shares["strangers"][0] == "–"
    assert all(float(row[1]) >= 0.9 for row in shares.values())
