"""A command that people are told to type is what it was meant to be, whatever a stranger's file put into it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_registry.commands import command, quoted

TEXT = st.text(st.characters(blacklist_characters="\x00", blacklist_categories=("Cs",)))


@given(TEXT)
def test_a_value_is_one_word_to_a_shell(value: str) -> None:
    assert shlex.split(quoted(value)) == [value]


@pytest.mark.parametrize("value", ["ana@2", "acme/ana", "FOLDER", "…", "space=0.5", "hf://acme/ana", "日本", "José"])
def test_what_no_shell_reads_is_left_as_it_is(value: str) -> None:
    assert quoted(value) == value


def test_options_follow_the_arguments() -> None:
    built = command("consent grant", "s-17", purpose="research", derivatives=True, publication=False, until=None)
    assert built == "w2w-reg consent grant s-17 --purpose research --derivatives"
    assert command("add", "PATH", subject=["a", "b"]) == "w2w-reg add PATH --subject a --subject b"
    assert command("resolve", "ana", same_as="bo") == "w2w-reg resolve ana --same-as bo"


def test_an_argument_is_never_read_as_an_option() -> None:
    assert command("add", "-x.safetensors", subject="a") == "w2w-reg add --subject a -- -x.safetensors"
    assert command("add", "-x y.safetensors") == "w2w-reg add -- '-x y.safetensors'", "quotes do not hide the dash"
