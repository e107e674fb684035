"""The sizing table of docs/scaling.md is the one that ``python -m benchmarks.sizing`` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sizing

DOC = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_documented_table_is_the_computed_one() -> None:
    assert sizing.table(sizing.Measured()) in DOC.read_text()


def test_everything_grows_with_the_rows() -> None:
    billion, million = (sizing.sized(n, sizing.Measured()) for n in (10**9, 10**6))
    for name in ("loras", "catalog", "index", "memory", "query", "verdict", "build"):
        assert getattr(billion, name) == pytest.approx(1000 * getattr(million, name))


@pytest.mark.parametrize(
    ("shown", "said"),
    [(sizing._bytes(399_000), "400 kB"), (sizing._bytes(64.2e6), "64 MB"), (sizing._seconds(0.0021), "2.1 ms")],
)
def test_figures_have_two_digits_that_count(shown: str, said: str) -> None:
    assert shown == said
