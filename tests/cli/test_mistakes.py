"""What a slip of the hand leads to: an error that names it, never a wrong answer and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run


def value(run: Run, *args: str | Path) -> Any:
    code, out, err = run(*args, "--json")
    assert code == 0, err
    return json.loads(out)


def refused(run: Run, *args: str | Path, code: int = 2) -> str:
    """The one line an error is."""
    found, out, err = run(*args)
    assert (found, out) == (code, ""), err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1
    return err


def test_history_of_an_identity_without_aliases(filled: Run) -> None:
    assert value(filled, "history", "p0001") == []
    assert filled("history", "p0001")[1] == "no alias was ever set\n"


@pytest.mark.parametrize("number", ["9999999999", "99999999999999999999", "9" * 5000])
def test_version_numbers_no_database_holds(filled: Run, number: str) -> None:
    assert "at most 9 digits" in refused(filled, "show", f"p0001@{number}")
    assert "at most 9 digits" in refused(filled, "space", "show", f"tiny@{number}")


@pytest.mark.parametrize(
    "args",
    [
        ("list", "--limit", "99999999999999999999"),
        ("audit", "prove", "99999999999999999999"),
        ("audit", "query", "expiring", "--days", "99999999999"),
        ("sample", "--seed", "99999999999999999999"),
    ],
)
def test_numbers_beyond_all_use(filled: Run, args: tuple[str, ...]) -> None:
    assert "range" in refused(filled, *args)


def test_blocked_matches_obey_where(filled: Run, loras: Path) -> None:
    filled("add", loras / "p0001", loras / "p0002", "--subject", "s-7")
    filled("consent", "withdraw", "s-7")
    filled("tag", "set", "p0002", "team=ads")

    def found(*more: str) -> set[str]:
        return {hit["identity"] for hit in value(filled, "search", "p0000", "-k", "50", *more)["results"]}

    assert len(found()) == 48
    assert len(found("--include-blocked")) == 50
    assert found("--include-blocked", "--where", "tag.team = ads") == {"p0002"}
    assert found("--include-blocked", "--where", "name in (p0001, p0003)") == {"p0001", "p0003"}


def test_space_list_counts_who_is_served(filled: Run) -> None:
    assert value(filled, "space", "list")[0]["identities"] == 50
    value(filled, "remove", "p0003", "--yes")
    assert value(filled, "space", "list")[0]["identities"] == 49
    assert value(filled, "space", "show", "tiny")["identities"] == 49


def test_unknown_fields_and_values_of_where(filled: Run) -> None:
    filled("tag", "set", "p0001", "rating=10")
    assert "no field or label is named 'format'" in (error := refused(filled, "list", "--where", "format = kohya"))
    assert "fields: name, kind" in error
    assert "did you mean kind" in refused(filled, "list", "--where", "knd = person")
    error = refused(filled, "list", "--where", "kind = Person")
    assert "'Person'" in error
    assert "person, product" in error
    assert "active, blocked" in refused(filled, "search", "p0001", "--where", "state in (active, gone)")
    for command in (("search", "p0001"), ("releases",), ("audit", "query")):
        assert "no field or label" in refused(filled, *command, "--where", "bread > 0.5")
    assert value(filled, "list", "--where", "label.bread > 0.5") == []


def test_tags_that_are_numbers_compare_as_numbers(filled: Run) -> None:
    for name, rating in (("p0001", "10"), ("p0002", "4.0"), ("p0003", "3"), ("p0004", "good"), ("p0005", "007")):
        filled("tag", "set", name, f"rating={rating}")

    def found(where: str) -> list[str]:
        return [row["identity"] for row in value(filled, "list", "--where", where)]

    assert found("tag.rating >= 4") == ["p0001", "p0002"]
    assert found("tag.rating < 4") == ["p0003"]
    assert found("tag.rating = 4") == ["p0002"]
    assert found("tag.rating = 007") == ["p0005"]
    assert found("tag.rating = '4'") == []
    assert found("tag.rating in (3, good)") == ["p0003", "p0004"]
    assert found("tag.rating != 4") == ["p0001", "p0003", "p0004", "p0005"]


def test_import_with_identities_of_a_space_that_has_none(filled: Run, tmp_path: Path) -> None:
    filled("space", "export", "tiny", tmp_path / "exported")
    other = ("--home", tmp_path / "other")
    filled("init", *other)
    command = ("space", "import", "faces", tmp_path / "exported", "--identities", *other)
    assert "--identities" in refused(filled, *command, code=5)
    assert value(filled, "space", "list", *other) == []
