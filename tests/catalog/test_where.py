"""The where language: what parses means what it says, what does not is told where and why."""

from __future__ import annotations

import unicodedata
from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from w2w_registry.catalog.where import All, Compare, Field, Not, Some, parse_where
from w2w_registry.errors import WhereError

BEARD = Field("label", "beard")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind = person", Compare(Field("kind"), "=", ("person",))),
        ("kind='person'", Compare(Field("kind"), "=", ("person",))),
        ("beard>0.5", Compare(BEARD, ">", (0.5,))),
        ("label.beard >= -1e-3", Compare(BEARD, ">=", (-0.001,))),
        ("beard = 'yes'", Compare(BEARD, "=", ("yes",))),
        ("beard = '1'", Compare(BEARD, "=", ("1",))),
        ("beard in (1, yes)", Compare(BEARD, "in", (1.0, "yes"))),
        ('"hair hue" < 0.2', Compare(Field("label", "hair hue"), "<", (0.2,))),
        ("label.'it''s' is null", Compare(Field("label", "it's"), "null", ())),
        ("tag.team = 007", Compare(Field("tag", "team"), "=", ("007",))),
        ('tag."due date" is not null', Compare(Field("tag", "due date"), "null", (), True)),
        ("tag.a.b != ''", Compare(Field("tag", "a.b"), "!=", ("",))),
        ("name <> acme/alice", Compare(Field("name"), "!=", ("acme/alice",))),
        ("name not like 'a%'", Compare(Field("name"), "like", ("a%",), True)),
        ("name ~ ali", Compare(Field("name"), "~", ("ali",))),
        ("alias not in (production, staging)", Compare(Field("alias"), "in", ("production", "staging"), True)),
        ("version = 2", Compare(Field("version"), "=", (2.0,))),
        ("space = faces@1", Compare(Field("space"), "=", ("faces@1",))),
        ("created < 2026-05-01", Compare(Field("created"), "<", (date(2026, 5, 1),))),
        (
            "created >= '2026-05-01T12:00:00+02:00'",
            Compare(Field("created"), ">=", (datetime(2026, 5, 1, 10, tzinfo=UTC),)),
        ),
        ("not beard = 1", Not(Compare(BEARD, "=", (1.0,)))),
        ("NOT NOT beard = 1", Not(Not(Compare(BEARD, "=", (1.0,))))),
        (
            "beard = 1 or beard = 2 AND not beard = 3",
            Some((
                Compare(BEARD, "=", (1.0,)),
                All((Compare(BEARD, "=", (2.0,)), Not(Compare(BEARD, "=", (3.0,))))),
            )),
        ),
        (
            "(beard = 1 or beard = 2) and beard = 3",
            All((
                Some((Compare(BEARD, "=", (1.0,)), Compare(BEARD, "=", (2.0,)))),
                Compare(BEARD, "=", (3.0,)),
            )),
        ),
    ],
)  # fmt: skip
def test_meaning(text: str, expected: object) -> None:
    assert parse_where(text) == expected


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "expected a field, found the end"),
        ("beard", 5, "found the end"),
        ("beard >", 7, "expected a value, found the end"),
        ("beard == 1", 6, "'=' (one of them)"),
        ("kind = person beard > 1", 14, "expected 'and', 'or' or the end, found beard"),
        ("kind = person and", 17, "expected a field"),
        ("(kind = person", 14, "expected ')'"),
        ("kind = person)", 13, "expected 'and', 'or' or the end"),
        ("kind = 'person", 7, "a quote that is not closed"),
        ("kind = person; drop table identity", 13, "unexpected ';'"),
        ("version = two", 10, "expected a number, found two"),
        ("version = '2'", 10, "expected a number"),
        ("version = 1e999", 10, "expected a number"),
        ("created > yesterday", 10, "expected a date"),
        ("created = 2026-02-30", 10, "expected a date"),
        ("created = 0999-01-01", 10, "expected a date"),
        ("version ~ 2", 8, "~ compares text"),
        ("beard in ()", 10, "expected a value, found )"),
        ("beard in (1 2)", 12, "expected ',' or ')'"),
        ("beard in 1", 9, "expected '(' after in"),
        ("beard is 1", 9, "expected 'null' or 'not null'"),
        ("beard not = 1", 10, "expected 'in', 'like' or '~' after 'not'"),
        ("0.5 < beard", 0, "expected a field, the value comes after it"),
        ("tag. = 1", 0, "expected a name after tag."),
        ("tag = ads", 0, "expected a name after tag."),
        ("consent = granted", 0, "not a field here"),
        ("beard = and", 8, "expected a value, found and"),
        ("and = 1", 0, "expected a field, found and"),
    ],
)
def test_errors_say_where_and_what_was_expected(text: str, position: int, reason: str) -> None:
    with pytest.raises(WhereError) as caught:
        parse_where(text)
    assert (caught.value.expression, caught.value.position) == (text, position)
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "(" * 5000 + "a = 1" + ")" * 5000,
        "not " * 2000 + "a = 1",
        " and ".join(["a = 1"] * 1000),
        f"a in ({','.join(['1'] * 2000)})",
        "a = '" + "x" * 20_000 + "'",
    ],
)
def test_what_is_too_much_is_refused(text: str) -> None:
    with pytest.raises(WhereError):
        parse_where(text)


@given(st.text())
@example("\U0002f800")
def test_any_text_parses_or_is_refused_with_a_position(text: str) -> None:
    position = 0
    try:
        parse_where(text)
    except WhereError as error:
        position = error.position
    assert 0 <= position <= len(text)


@given(st.text())
@example("\U0002f800")
def test_any_text_can_be_quoted(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    # in composed form, as names and labels are kept
    assert parse_where(f"name = {quoted}") == Compare(Field("name"), "=", (unicodedata.normalize("NFC", text),))
