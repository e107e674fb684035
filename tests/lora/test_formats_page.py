"""docs/formats.md says what the code reads: no format or kind is missing, no example is another's."""

from __future__ import annotations

import re
from pathlib import Path

from w2w_registry.lora.change import _FACTORS
from w2w_registry.lora.formats import FORMATS, form_of
from w2w_registry.lora.roles import _KINDS, ending_of, kind_of
from w2w_registry.lora.write import WRITTEN

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")


def rows(title: str) -> list[list[str]]:
    section = PAGE.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_format_with_an_example_of_its_own() -> None:
    found = rows("Formats")
    assert [row[0] for row in found] == [form.NAME for form in FORMATS]
    for name, example, written in found:
        assert form_of(example.strip("`")) == name
        assert (written == "yes") == (name in WRITTEN)


def test_every_kind_and_whether_its_change_is_known() -> None:
    found = {row[0]: row for row in rows("Kinds")}
    assert set(found) == {kind for _, kind in _KINDS} | {"DoRA"}
    for kind, known_by, said in found.values():
        assert (said == "exact") == (kind in _FACTORS)
        tail = re.findall(r"`([^`]+)`", known_by)[0]
        for end in (f"x.{tail}.weight", f"x.{tail}"):
            ending = ending_of(end)
            if ending is not None and ending.stem == "x":
                break
        assert ending is not None
        roles = frozenset({ending.role, "A"} if kind == "DoRA" else {ending.role})
        assert kind_of(roles) == kind
