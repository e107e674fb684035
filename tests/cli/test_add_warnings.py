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
