"""What is asked once in a moment, and what never is."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from w2w_registry.catalog.moment import forget, once, remember
from w2w_registry.errors import NotFound

ASKED: list[object] = []


@once
def lookup(session: Session, ids: object, *, state: str = "active") -> list[object]:
    ASKED.append(ids)
    if ids == "nobody":
        raise NotFound(what="identity", name="nobody")
    return [ids, state]


@pytest.fixture
def moment() -> Session:
    ASKED.clear()
    session = Session()
    remember(session)
    return session


def test_the_same_question_is_asked_once(moment: Session) -> None:
    assert lookup(moment, [1, 2]) == lookup(moment, (1, 2)) == [(1, 2), "active"]
    assert lookup(moment, {3, 4}) == lookup(moment, frozenset({4, 3}))
    assert lookup(moment, [1, 2], state="held") == [(1, 2), "held"]
    assert len(ASKED) == 3


def test_whoever_changes_an_answer_changes_a_copy(moment: Session) -> None:
    lookup(moment, "p0001").append("more")
    assert lookup(moment, "p0001") == ["p0001", "active"]


@once
def labels(session: Session) -> dict[int, dict[str, set[int]]]:
    return {1: {"beard": {2}}}


def test_whoever_changes_what_is_in_an_answer_changes_a_copy(moment: Session) -> None:
    labels(moment)[1]["beard"].add(3)
    labels(moment)[1]["hat"] = {4}
    assert labels(moment) == {1: {"beard": {2}}}


def test_a_refusal_is_asked_again(moment: Session) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            lookup(moment, "nobody")
    assert len(ASKED) == 2


def test_outside_a_moment_nothing_is_remembered(moment: Session) -> None:
    lookup(moment, "p0001")
    forget(moment)
    lookup(moment, "p0001")
    assert len(ASKED) == 2
