"""The verdict's benchmark: one file learned from, another judged on, and it fails when figures fall short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
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


def run(monkeypatch: pytest.MonkeyPatch, gallery: Path | None, held: Path | None) -> list[Any]:
    for name, path in ((verdict.GALLERY, gallery), (verdict.HELD, held)):
        if path is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(path))
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
    for split in (run(monkeypatch, made["one"], None), run(monkeypatch, None, made["one"])):
        assert "n=20" in str(split[0].quality["recall@1"])  # a quarter of the people; --small takes one
        assert split[0].size["judged on"] == "1 splits by person"


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
    narrow = {name: rows[:, :5] if rows.ndim == 2 else rows for name, rows in arrays.items()}
    for name, changed, said in (
        ("narrow", {"gallery": narrow["gallery"]}, "floats"),
        ("all narrow", narrow, "5 and 24 floats"),
        ("rows", {"gallery": arrays["gallery"][:50]}, "rows"),
        ("of nobody", {"foreign_of": arrays["foreign_of"] - 90}, "rows"),
        ("of some", {"foreign_of": arrays["foreign_of"][:3]}, "whose it is"),
        ("alone", {"strangers": arrays["strangers"][:0]}, "strangers"),
    ):
        np.savez(tmp_path / f"{name}.npz", **{**arrays, **changed})
        with pytest.raises(verdict.FellShort, match=said):
            run(monkeypatch, made["one"], tmp_path / f"{name}.npz")
    with pytest.raises(verdict.FellShort, match="very fingerprints"):
        run(monkeypatch, made["two"], made["bare"])
    (tmp_path / "text.npz").write_text("fingerprints")
    for there in ("text", "nowhere"):
        with pytest.raises(verdict.FellShort, match="no NPZ"):
            run(monkeypatch, None, tmp_path / f"{there}.npz")


def test_a_file_that_cannot_be_judged_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(verdict.HELD, "")  # as it was, afterwards
    assert main(["--only", "verdict", "--held", str(tmp_path / "nowhere.npz")]) == 1
    told = capfd.readouterr().err
    assert "nowhere.npz is no NPZ of fingerprints" in told
    assert "Traceback" not in told
