"""What ``add`` warns of: the gravest first whatever its words, the rest counted."""

from __future__ import annotations

import pytest

from w2w_registry.cli.add import _warnings
from w2w_registry.records import Rank, Told
from w2w_registry.services.identities.items import Item


def test_the_gravest_first_and_the_rest_counted(capsys: pytest.CaptureFixture[str]) -> None:
    remarks = [f"remark {letter}" for letter in "abcdef"]
    items = [
        Item("a", "added", "ann", 1, warnings=(*remarks, Told("about the base", Rank.CONTRADICTION))),
        Item("b", "added", "ben", 1, warnings=("remark g", Told("is somebody", Rank.LIKENESS))),
    ]
    assert items[1].warnings[0] == items[1].to_json()["warnings"][0] == "is somebody"
    _warnings(items)
    lines = capsys.readouterr().err.splitlines()
    assert ["is somebody" in lines[0], "about the base" in lines[1]] == [True, True]
    assert len(lines) == 6
    assert "… 4 more warnings (--json lists all)" in lines[-1]


def test_identities_are_counted_not_what_is_said_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    near = [f"looks like p{number}" for number in range(3)]
    _warnings([Item("a", "added", "ann", 1, warnings=tuple(near))])
    _warnings([Item(name, "added", name, 1, warnings=tuple(near)) for name in ("ann", "ben")])
    one, two = capsys.readouterr().err.splitlines()
    assert one.endswith("ann: looks like p0 (2 more like this; --json lists all)")
    assert two.endswith("2 identities, such as ann: looks like p0")
