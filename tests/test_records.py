"""Names, references and canonical JSON."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_registry import records
from w2w_registry.errors import BadName
from w2w_registry.records import (
    IdentityRef,
    SpaceRef,
    canonical_json,
    check_name,
    counted,
    digest_of,
    iso,
    nearness,
    once_in,
    ordered_id,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", ["p0007", "acme/alice", "ünï/日本", "a", "A.b_c+d-e/f", "7"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", ".a", "a.", "a b", "a@1", "a\n", "a\x00", "-a", "_a", "a" * 201, "a/../b"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(BadName):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("p1", IdentityRef("p1")),
        ("acme/alice@3", IdentityRef("acme/alice", number=3)),
        ("acme/alice@production", IdentityRef("acme/alice", alias="production")),
    ],
)
def test_references_read_back(text: str, ref: IdentityRef) -> None:
    assert IdentityRef.parse(text) == ref
    assert str(ref) == text


def test_a_name_is_the_same_composed_and_decomposed() -> None:
    composed, decomposed = "acme/jos\u00e9", "acme/jose\u0301"
    assert check_name(decomposed) == composed
    assert IdentityRef.parse(f"{decomposed}@2") == IdentityRef(composed, number=2)


@pytest.mark.parametrize("text", ["p1@", "p1@0", "p1@-1", "p1@3x", "@3", "p1@a@b", "p1@٣"])
def test_bad_references(text: str) -> None:
    with pytest.raises(BadName):
        IdentityRef.parse(text)


def test_space_references() -> None:
    assert SpaceRef.parse("faces@2") == SpaceRef("faces", 2)
    with pytest.raises(BadName):
        SpaceRef.parse("faces@best")


@given(VALUES)
def test_canonical_json_is_json_and_one_text_per_value(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_does_not_matter(value: dict[str, int]) -> None:
    assert digest_of(dict(reversed(list(value.items())))) == digest_of(value)


@pytest.mark.parametrize("in_c", [True, False])
@given(value=VALUES)
def test_canonical_json_is_what_the_module_writes(in_c: bool, value: object) -> None:
    """By the encoder that is made once, and by the one that a Python without it gets."""
    with pytest.MonkeyPatch.context() as patched:
        if not in_c:
            patched.setattr(json.encoder, "c_make_encoder", None)
        text = "".join(records._encoder()(value, 0))
    assert text == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_nan_has_no_canonical_form() -> None:
    for bad in (float("nan"), {"x": float("inf")}, [1.5, -float("inf")]):
        with pytest.raises(ValueError, match="JSON compliant"):
            canonical_json(bad)


def test_moments_in_one_form() -> None:
    moment = datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))
    assert iso(moment) == iso(datetime(2026, 1, 31, 12, tzinfo=UTC)) == "2026-01-31T12:00:00.000000Z"
    assert iso(datetime(2026, 1, 31, 12)) == "2026-01-31T12:00:00.000000Z"


def test_counting() -> None:
    assert [counted(n, "event") for n in (0, 1, 2)] == ["0 events", "1 event", "2 events"]


def test_chances_are_told_by_how_often_something_happens() -> None:
    chances = (0.0, 2e-6, 3e-4, 0.012, 0.19, 0.5, 1.0)
    told = ["less than once in 1,000,000", *(f"once in {n}" for n in ("500,000", "3,300", "83", "5.3", "2", "1"))]
    assert [once_in(chance) for chance in chances] == told
    drawn = "by what it draws, as near as one stranger in 10,000 comes, where one stranger in 3,300 is refused"
    assert nearness("behaviour", 1 - 1e-4, 1 - 3e-4) == drawn
    assert nearness("sketch", 1.0, 0.55) == "by its weights, at a cosine of 1.000; refused from 0.550 up"


def test_identifiers_of_later_moments_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [1_769_000_000_000_000_000 + i * 1_000_000 for i in range(50)]
    given = iter(moments)
    monkeypatch.setattr(time, "time_ns", lambda: next(given))
    made = [ordered_id() for _ in moments]
    assert made == sorted(made)
    for moment, text in zip(moments, made, strict=True):
        one = uuid.UUID(text)
        assert (one.version, one.variant, one.int >> 80) == (7, uuid.RFC_4122, moment // 1_000_000)
    monkeypatch.undo()
    assert len({ordered_id() for _ in range(10_000)}) == 10_000
