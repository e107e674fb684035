"""Names in the world's scripts on a sheet, on a machine that has no fonts."""

from __future__ import annotations

import gzip
from hashlib import sha256

import numpy as np
import pytest

from w2w_registry.diffusion import lettering
from w2w_registry.diffusion.images import Tile, contact_sheet, wrapped_sheet

NAMES = {
    "Japanese": "田中 花子 たなか・ハナコ ー々",
    "Chinese": "张伟 張偉 龘",
    "Korean": "김민수 뷁",
    "Arabic": "محمد بن علي",
    "Persian": "پژمان گیتی",
    "Hebrew": "שָׁלוֹם דוד",
    "Thai": "สมชาย น้ำ",
    "Devanagari": "क्षत्रिय प्रिया",
    "Bengali": "রবীন্দ্র",
    "Tamil": "தமிழ்",
    "Georgian": "გიორგი",
    "Armenian": "Արմեն",
    "Amharic": "አበበ",
    "Khmer": "សុខា",
    "Greek": "Ελένη ΆΈ",
    "Cyrillic": "Ђорђе Щюэ Қ",
    "Vietnamese": "Nguyễn Thị Ưu",
    "Western Latin": "Zoë Müller, José Ñandú, Åse Øre",
    "Eastern Latin": "Łukasz Dvořák Őze Șt",
    "Latin with marks": "Ǆ ẞ ș e\u0301",
}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without one of the fonts that are looked for."""
    monkeypatch.setattr(lettering, "_MACHINES", ())
    lettering._of_the_machine.cache_clear()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_no_letter_comes_out_as_the_missing_box(name: str) -> None:
    font = lettering.font_for(name)
    assert lettering.can_write(font, "".join(name.split()))
    ink = wrapped_sheet([Tile(np.zeros((8, 8, 3), np.uint8), (name,))])[-16:]
    assert 20 < (ink.max(-1) < 128).sum() < ink[..., 0].size / 2


@pytest.mark.usefixtures("bare")
def test_labels_of_rows_and_columns_are_written_too() -> None:
    cell = np.zeros((32, 32, 3), np.uint8)
    latin = contact_sheet([[cell]], row_labels=["ab"], column_labels=["ab"], cell=64)
    other = contact_sheet([[cell]], row_labels=["花子"], column_labels=["花子"], cell=64)
    assert other.shape[1] - latin.shape[1] == lettering.width_of("花子") - lettering.width_of("ab") > 10
    heads = (other[:18].max(-1) < 128).sum()
    assert heads > (latin[:18].max(-1) < 128).sum() > 0


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", ["a\x85b", "花\u2029子", "a\nb", "\u2029"])
def test_what_parts_lines_is_a_space(name: str) -> None:
    cell = np.zeros((32, 32, 3), np.uint8)
    assert wrapped_sheet([Tile(cell, (name,))]).size
    assert contact_sheet([[cell]], row_labels=[name], column_labels=[name]).size


def test_a_long_text_is_cut_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter less at a time, a label of twenty thousand took half a minute."""
    font, asked = lettering.font_for("あ"), list[str]()

    class Counted:
        def getlength(self, text: str) -> float:
            asked.append(text)
            return float(font.getlength(text))

    monkeypatch.setattr(lettering, "font_for", lambda *_: Counted())
    assert lettering.fitted("あ" * 20_000, 128) == "あ" * int(128 // font.getlength("あ"))
    assert len(asked) < 40
    assert lettering.fitted("あ", 1) == ""


def test_a_letter_no_font_has_leaves_the_others_written() -> None:
    name = "花\U00020bb7"
    assert not lettering.can_write(lettering.font_for(name), "\U00020bb7")
    assert lettering.can_write(lettering.font_for(name), "花")


def test_a_machines_own_font_goes_before() -> None:
    """Where one of them has all letters; English never takes one."""
    assert lettering.font_for("ann").getname() == lettering._own(12).getname()
    for text in ("αβ", "あ"):
        own = lettering._of_the_machine("".join(sorted(text)), 12)
        assert lettering.font_for(text).getname() == (own or lettering.unifont()).getname()


def test_the_font_is_the_one_that_is_told_of() -> None:
    data = lettering.UNIFONT.read_bytes()
    assert sha256(data).hexdigest() == "efbae4714d186a3015ba05879c6b1c685bdc1538169bed563cb927419bd38cdd"
    assert len(data) < 1_500_000
    said = gzip.decompress(data)
    assert b"15.0.01" in said
    assert b"SIL Open Font License version 1.1" in said
    beside = {name: (lettering.UNIFONT.parent / name).read_text("utf-8") for name in ("README.md", "OFL.txt")}
    assert "GNU Unifont 15.0.01" in beside["README.md"]
    assert "SIL OPEN FONT LICENSE Version 1.1" in beside["OFL.txt"]
