"""Patterns of a stranger's settings: PEFT's meaning inside the safe subset, refused in no time outside it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_registry.lora.patterns import MAX_PATTERNS, Automaton, PatternTable, UnsafePattern

NAMES = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.10.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.proj_in",
    "a",
    "aa.b",
)
PIECES = st.sampled_from(["a", "b", ".", r"\.", "to_q", "0", "[0-9]", "[ab]", r"\d", r"\w", "_", "attn1"])


def patterns(depth: int = 2) -> st.SearchStrategy[str]:
    if depth == 0:
        return PIECES
    inner = patterns(depth - 1)
    return st.one_of(
        inner,
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("({0[0]}|{0[1]})".format),
        st.tuples(inner, st.sampled_from("?*+")).map("({0[0]}){0[1]}".format),
    )


@given(patterns(3), st.sampled_from(NAMES) | st.text("ab.0_", max_size=12))
def test_it_means_what_peft_takes_it_for(pattern: str, name: str) -> None:
    expected = re.match(rf"(.*\.)?({pattern})$", name) is not None
    assert Automaton(rf"(.*\.)?({pattern})").matches(name) == expected


LOOSE = st.lists(
    st.lists(
        st.sampled_from(
            [
                "to_q",
                "to",
                "_",
                "q",
                "[qk]",
                ".",
                ".*",
                r"\.",
                r"\d+",
                "0",
                "(q|k)",
                "blocks",
                "^",
                "$",
                "?",
                "|",
                "(",
                ")",
            ]
        ),
        min_size=1,
        max_size=5,
    ).map("".join),
    min_size=1,
    max_size=3,
    unique=True,
)


@settings(deadline=None)  # the first loads PEFT
@given(LOOSE, st.sampled_from(["to_q", "xto_q", "a.to_q", "blocks.0.to_q", "blocks.10.to_out.0", "blocks_0", "ab"]))
def test_a_table_gives_what_pefts_own_look_up_gives(table: list[str], name: str) -> None:
    look_up = pytest.importorskip("peft.utils.other").get_pattern_key
    try:
        found = PatternTable([(pattern, float(i)) for i, pattern in enumerate(table)])
    except UnsafePattern:
        return
    key = look_up(table, name)
    assert found.find(name) == (float(table.index(key)) if key in table else None)


def test_a_dot_that_is_not_escaped_is_any_character() -> None:
    assert PatternTable([("to.q", 3.0)]).find("a.to_q") == 3.0
    assert PatternTable([(r"to\.q", 3.0)]).find("a.to_q") is None
    assert PatternTable([("^b.0.to_q", 3.0)]).find("a.b.0.to_q") is None


def test_the_first_that_matches_wins() -> None:
    table = PatternTable(
        [("attn1.to_q", 3), ("^mid_block.attentions.0.proj_in", 5), (r"(attn1|attn2)\..*", 7), ("to_q", 9)]
    )
    assert [table.find(name) for name in NAMES] == [3, 7, 5, None, None]


@pytest.mark.parametrize("evil", ["(a+)+$", "(a|a)*b", "((a*)*)*b", "(.*)*x"])
def test_evil_patterns_take_no_time(evil: str) -> None:
    means_it = evil == "(a+)+$"
    assert Automaton(evil).matches("a" * 5_000) == means_it
    assert PatternTable([(evil, 1.0)]).find("a" * 5_000) == (1.0 if means_it else None)


def test_many_and_special_ones_are_refused() -> None:
    with pytest.raises(UnsafePattern, match=str(MAX_PATTERNS)):
        PatternTable([(f"(a+)+{i}", 1.0) for i in range(3_000)])
    for special in ("(?=a)", "(?i)a", r"(a)\1", "a{3}", "[^a]", "[", "(", "a)", ")|(a", "^*", "*", "x" * 500 + ".*"):
        with pytest.raises(UnsafePattern):
            PatternTable([(special, 1.0)])
    assert PatternTable([(f"^m.{i}", float(i + 1)) for i in range(3_000)]).find("m.2999") == 3_000
