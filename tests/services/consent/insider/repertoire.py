"""Every command, and what the campaign does about it: a move that stands for it, or why there is none."""

from __future__ import annotations

from typing import Final

from tests.services.consent.insider import (  # noqa: F401  (each puts its moves into MOVES)
    with_files,
    with_homes,
    with_hub,
    with_people,
    with_registered,
    with_spaces,
)
from tests.services.consent.insider.play import MOVES

_READS: Final = "prints what is recorded: no model, no picture, nothing changed"
_SIGNS: Final = "digests and signatures of what is there already"

EXEMPT: Final[dict[str, str]] = {
    **dict.fromkeys(
        (
            "list", "show", "search", "groups", "duplicates", "history", "lineage", "manifest", "diff", "stats",
            "doctor", "releases", "whose", "detect", "verify", "space list", "space show", "space map",
            "direction list", "direction show", "subject list", "subject show", "consent show", "consent check",
            "policy show",
            "policy history", "config show", "label export", "collection list", "collection show", "db current",
            "db check",
        ),
        _READS,
    ),
    **dict.fromkeys(
        ("audit checkpoint", "audit verify", "audit prove", "audit export", "audit publish", "audit witness",
         "audit query", "audit report", "sign", "report roi", "report subject"),
        _SIGNS,
    ),
    "consent sign": "a subject's own signature; what it grants counts once `consent grant --signed` takes it",
    "serve": "pages and API over the same services; tests/web walks its routes",
    "db upgrade": "the schema, no rows",
    "index optimize": "a cache, rebuilt from the catalog",
    "collection remove": "as collection add",
    "calibrate": "learns a metric from second trainings that only count when their people are registered",
    "initializer fit": "learns where inversions start; what they find is planted here",
    "evaluate": "draws to measure, and gives figures",
}  # fmt: skip
"""Command -> why no move stands for it."""


def covered() -> dict[str, list[str]]:
    """Command -> moves that stand for it."""
    found: dict[str, list[str]] = {}
    for one in MOVES:
        for command in one.commands:
            found.setdefault(command, []).append(one.name)
    return found
