"""The verdict's benchmark: one file learned from, another judged on, and it fails when figures fall short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cases import verdict

WIDTH, PEOPLE = 24, 150


def files(folder: Path, grain: float) -> dict[str, Any]:
    """``one``: 80 people's repeats, to learn from; ``two``: 40 others', with the gallery, and ``bare`` without it."""
    rng = np.random.default_rng(0)
    people = rng.normal(size=(PEOPLE + 60, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.5

    def seen(rows: np.ndarray, louder: float = 1.0) -> np.ndarray:
        return (louder * people[rows] + grain * rng.normal(size=(len(rows), WIDTH))).astype(np.float16)

    gallery = seen(np.arange(PEOPLE))
    for name, rows, others in (("one", range(80), range(30)), ("two", range(80, 120), range(30, 60))):
        of, strangers = np.array(rows), PEOPLE + np.array(others)
        arrays = {"queries": seen(of), "queries_of": of, "foreign": seen(of[:30], 1.3), "foreign_of": of[:30]}
        arrays["strangers"] = seen(strangers)
        np.savez(folder / f"{name}.npz", **arrays, gallery=gallery)
        np.savez(folder / f"bare-{name}.npz", **arrays)
    return {"one": folder / "one.npz", "two": folder / "two.npz", "bare": folder / "bare-two.npz"}


def run(monkeypatch: pytest.MonkeyPatch, gallery: Path, held: Path | None) -> list[Any]:
    monkeypatch.setenv(verdict.GALLERY, str(gallery))
    if held is None:
        monkeypatch.delenv(verdict.HELD, raising=False)
    else:
        monkeypatch.setenv(verdict.HELD, str(held))
    return list(verdict.rows(small=True))


def test_judged_on_the_second_file_with_or_without_its_own_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = files(tmp_path, grain=0.03)
    with_gallery, without = (run(monkeypatch, made["one"], made[name]) for name in ("two", "bare"))
    assert [row.name for row in with_gallery] == ["verdict, retrained", "verdict, foreign"]
    assert [row.ours for row in with_gallery] == [row.ours for row in without]
    assert "n=40" in str(with_gallery[0].quality["recall@1"])
    assert with_gallery[0].size["judged on"] == "--held"
    split = run(monkeypatch, made["one"], None)
    assert "n=20" in str(split[0].quality["recall@1"])  # a quarter of the people; --small takes one


def test_figures_that_fall_short_fail_and_files_that_cannot_be_judged_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = files(tmp_path, grain=2.0)
    with pytest.raises(verdict.FellShort, match="retrained: recall@1"):
        run(monkeypatch, made["one"], made["two"])
    with pytest.raises(verdict.FellShort, match="has no gallery"):
        run(monkeypatch, made["bare"], None)
    with np.load(made["two"]) as file:
        arrays = dict(file)
    np.savez(tmp_path / "narrow.npz", **{**arrays, "gallery": arrays["gallery"][:, :5]})
    with pytest.raises(verdict.FellShort, match="floats"):
        run(monkeypatch, made["one"], tmp_path / "narrow.npz")
    np.savez(tmp_path / "rows.npz", **{**arrays, "gallery": arrays["gallery"][:50]})
    with pytest.raises(verdict.FellShort, match="rows"):
        run(monkeypatch, made["one"], tmp_path / "rows.npz")
