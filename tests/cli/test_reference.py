"""The README and docs/cli.md show the program's own help."""

from __future__ import annotations

from pathlib import Path

from tests.cli.reference import api_reference, reference, with_overview

ROOT = Path(__file__).parents[2]
REGENERATE = "out of date: run `python -m tests.cli.reference`"


def test_readme_shows_the_present_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert with_overview(text) == text, REGENERATE


def test_reference_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == reference(), REGENERATE


def test_api_reference_is_current() -> None:
    assert (ROOT / "docs" / "api.md").read_text("utf-8") == api_reference(), REGENERATE
