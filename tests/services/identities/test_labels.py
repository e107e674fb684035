"""Labels from the command line and from CSV files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_registry.errors import BadFile, RegistryError, UsageError
from w2w_registry.services.identities.manage import parse_tags
from w2w_registry.services.recording.labels import parse_labels, read_labels_csv
from w2w_registry.services.recording.policies import parse_items


def test_numbers_words_and_texts() -> None:
    assert parse_labels(["beard=1", "hat=yes", "team=ads", "note=a=b", "x=nan", "skin = 0.25"]) == {
        "beard": 1.0, "hat": 1.0, "team": "ads", "note": "a=b", "x": "nan", "skin": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mark", "cells", "numbers"),
    [
        (",", ["45%", "7 %", "100%", "12,5%", "0.5%"], [0.45, 0.07, 1.0, 0.125, 0.005]),
        (";", ["1.234", "0,5", "1.234,5"], [1234.0, 0.5, 1234.5]),
        (";", ["1.234", "2.5"], [1.234, 2.5]),
        (";", ["1,234", "+2,5"], [1.234, 2.5]),
        (",", ["1,234", "2,000"], [1234.0, 2000.0]),
        (",", ["0,7", "-1,25"], [0.7, -1.25]),
        ("\t", ["1,234", "0.5"], [1234.0, 0.5]),
        ("\t", ["1,234", "2,000"], ["1,234", "2,000"]),
        (",", ["1 234.5", "1'234'567", "1\N{NO-BREAK SPACE}234"], [1234.5, 1234567.0, 1234.0]),
        (",", ["1,5", "2.5", "1,234"], [1.5, 2.5, "1,234"]),
        (
            ",",
            ["1_000", "12 34", "1.2.3", "2026-01-02", "5%%", "%", "1e3"],
            ["1_000", "12 34", "1.2.3", "2026-01-02", "5%%", "%", 1e3],
        ),
    ],
)
def test_numbers_as_spreadsheets_write_them(
    tmp_path: Path, mark: str, cells: list[str], numbers: list[float | str]
) -> None:
    file = tmp_path / "labels.csv"
    rows = [f'p{i}{mark}"{cell}"' for i, cell in enumerate(cells)]
    file.write_text("\n".join((f"id{mark}beard", *rows)), "utf-8")
    assert [row["beard"] for row in read_labels_csv(file).values()] == numbers


def test_a_table_has_one_decimal_mark_where_a_column_does_not_tell_its_own(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("id\theight\tfollowers\tscore\n1.500\t1,78\t1.234\t0.5\nann\t1,6\t12.500\t2,000\n", "utf-8")
    assert read_labels_csv(file) == {
        "1.500": {"height": 1.78, "followers": 1.234, "score": 0.5},
        "ann": {"height": 1.6, "followers": 12.5, "score": 2000.0},
    }
    file.write_text("id\theight\tfollowers\nbob\t1,78\t1.234\nann\t1,6\t12.500\n", "utf-8")
    assert read_labels_csv(file) == {
        "bob": {"height": 1.78, "followers": 1234.0},
        "ann": {"height": 1.6, "followers": 12500.0},
    }


def test_a_label_by_itself_may_be_written_so_too() -> None:
    assert parse_labels(["a=45%", "b=0,7", "c=1,234", "d=1_0"]) == {"a": 0.45, "b": 0.7, "c": "1,234", "d": "1_0"}


@pytest.mark.parametrize("item", ["beard", "=1", " =1", "a b=1"])
def test_what_is_no_label_is_refused(item: str) -> None:
    with pytest.raises(RegistryError):
        parse_labels([item])


def test_csv_by_named_or_first_column(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("\ufeffsplit,id,beard\nfit,p0001,1\nfit,p0002,\n\n", "utf-8")
    assert read_labels_csv(file) == {"p0001": {"split": "fit", "beard": 1.0}, "p0002": {"split": "fit"}}
    for mark in ",;\t|":
        for told in ("", f"sep={mark}\r\n"):
            file.write_text(f"{told}who{mark}beard\np0001{mark}0.5\n", "utf-8")
            assert read_labels_csv(file) == {"p0001": {"beard": 0.5}}
    file.write_text("id,File_Name,beard\n1,a.safetensors,1\n2,b.safetensors,0\n", "utf-8")
    assert set(read_labels_csv(file)) == {"a.safetensors", "b.safetensors"}


def test_a_table_with_tabs_may_have_commas_in_its_header(tmp_path: Path) -> None:
    file = tmp_path / "labels.tsv"
    file.write_text("id\tage, years\np0001\t3\n", "utf-8")
    assert read_labels_csv(file) == {"p0001": {"age, years": 3.0}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no header"),
        ("id,beard\np1,1\np1,0\n", "twice"),
        ("id,beard\np1,1,2\n", "cells"),
        ("id,beard\n,1\n", "no identity"),
        ('id,beard\n"p1,1\n', "CSV"),
        ('[{"id": "p1", "beard": 1}]', "JSON"),
        ('{\n  "p1": {"beard": 1}\n}', "JSON"),
        ("id\np1\n", "no column of labels beside 'id'"),
        ("id,beard\np1,45%\np2,50\n", "'45%' and '50'"),
        ("id,beard\np1,45 %\np2,2.5\n", "'45 %' and '2.5'"),
        ("p1,0.5\np2,1\n", "named '0.5', as values are"),
    ],
)
def test_bad_csv_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text, "utf-8")
    with pytest.raises(BadFile, match=said):
        read_labels_csv(file)


def test_percent_beside_shares_of_one_and_words(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("id,beard,age\np1,45%,\np2,0.5,250%\np3,1,\np4,much,300%\n", "utf-8")
    assert read_labels_csv(file) == {
        "p1": {"beard": 0.45},
        "p2": {"beard": 0.5, "age": 2.5},
        "p3": {"beard": 1.0},
        "p4": {"beard": "much", "age": 3.0},
    }


def test_binary_and_missing_files(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b"\x89PNG\x00\xff")
    with pytest.raises(BadFile):
        read_labels_csv(file)
    with pytest.raises(BadFile):
        read_labels_csv(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("parse", "items"),
    [
        (parse_labels, ["beard=1", "hat=1", "beard=0"]),
        (parse_tags, ["team=ads", "team=shop"]),
        (parse_items, ["second_person=true", "second_person=false"]),
    ],
)
def test_a_name_with_two_values_says_nothing(parse: Callable[[list[str]], object], items: list[str]) -> None:
    with pytest.raises(UsageError, match="is given two values"):
        parse(items)
    parse([items[0], items[0]])


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("id,age,age\np0001,3,4\n", "utf-8")
    with pytest.raises(BadFile, match="two columns are named 'age'"):
        read_labels_csv(file)
    file.write_text("id,age,,\np0001,3,4,5\n", "utf-8")
    assert read_labels_csv(file) == {"p0001": {"age": 3.0}}
