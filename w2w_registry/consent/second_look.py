"""A second look at what a newcomer says of itself: does whom it resembles agree? Pure: sets and numbers in, a word out.

Nobody has to say the truth about whom a model depicts. Resemblance can contradict: a model that looks like somebody of
another subject, of none while it names one, or of another kind is held until a person has decided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from w2w_registry.errors import UNLIKE
from w2w_registry.records import Kind, VersionState

Depicted = frozenset[str | None]
"""Whom a model depicts, with everybody upstream; None in it: somebody who is not named. Empty: nobody."""


class By(StrEnum):
    """What two models were compared by, the surest first."""

    MODEL = "same model"
    BEHAVIOUR = "behaviour"
    WEIGHTS = "weights"
    PHOTO = "the same photo"


class Why(StrEnum):
    """What is at odds, the gravest first."""

    REFUSED = "may be somebody who refused"
    MADE = "made outside this registry, and may draw somebody who refused"
    SUBJECT = "another subject"
    NOBODY = "depicts somebody, and says nobody"
    AGREED = "may be somebody who agreed again, and does not say so"
    UNNAMED = "names a subject where none was named"
    KIND = "another kind"
    NAME = UNLIKE


@dataclass(frozen=True)
class Claim:
    """What a newcomer says of itself: its name, its kind, and whom it depicts."""

    name: str
    kind: Kind
    depicts: Depicted


@dataclass(frozen=True)
class Likely:
    """Somebody registered whom a newcomer may be. ``vouched``: somebody else looked and found it to be who it says."""

    version_id: int
    name: str
    number: int
    kind: Kind
    depicts: Depicted
    state: VersionState
    by: By
    score: float
    false_alarm: float | None = None
    vouched: bool = False

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class Contradiction:
    """Whom a newcomer resembles, and why that is at odds with what it says."""

    like: Likely
    why: Why


_SUREST: Final = tuple(By)
_GRAVEST: Final = tuple(Why)


def contradiction(claim: Claim, like: Likely) -> Why | None:
    """What is at odds between what a newcomer says and one whom it resembles; None when they agree.

    Two that depict nobody are of no concern to anybody, whatever their kinds.
    """
    if not claim.depicts and not like.depicts:
        return None
    shared = claim.depicts & like.depicts
    if shared:
        return Why.KIND if claim.kind != like.kind else None
    if not claim.depicts:
        return Why.NOBODY
    if like.depicts <= {None}:
        return Why.UNNAMED
    return Why.SUBJECT


def seen_as(claim: Claim, likely: Iterable[Likely]) -> bool:
    """Whether somebody whom a newcomer is, or draws, is what it says it is, and is not held itself."""
    return any(
        like.by in (By.MODEL, By.BEHAVIOUR)
        and contradiction(claim, like) is None
        and (like.state is VersionState.ACTIVE or like.vouched)
        for like in likely
    )


def second_look(claim: Claim, likely: Iterable[Likely]) -> Contradiction | None:
    """Whether a newcomer is to be held, and for whom: the surest and gravest contradiction.

    It is not when somebody whom it resembles more agrees with it and is not held itself: the second training of a
    person who resembles another one resembles both.
    """
    found: list[Contradiction] = []
    agreed: dict[By, float] = {}
    for like in likely:
        why = contradiction(claim, like)
        if why is not None:
            found.append(Contradiction(like, why))
        elif like.state is VersionState.ACTIVE or like.vouched:
            agreed[like.by] = max(agreed.get(like.by, like.score), like.score)
    left = [
        one
        for one in found
        if not any(_outweighs(by, score, one.like) for by, score in agreed.items()) and not _itself(claim, one)
    ]
    return min(left, key=_rank) if left else None


def _outweighs(by: By, score: float, like: Likely) -> bool:
    """Whether agreement by ``by`` at ``score`` says more than the resemblance at odds with it."""
    mine, other = _SUREST.index(by), _SUREST.index(like.by)
    return mine < other or (mine == other and score >= like.score and like.by is not By.MODEL)


def _itself(claim: Claim, one: Contradiction) -> bool:
    """A new version of an identity that names nobody is as unknown as a person can be: nothing is gained by it."""
    return claim.name == one.like.name and claim.kind == one.like.kind and claim.depicts == {None}


def _rank(one: Contradiction) -> tuple[int, int, float]:
    return _SUREST.index(one.like.by), _GRAVEST.index(one.why), -one.like.score


def gravest_first(by: Collection[str], why: str) -> tuple[int, int]:
    """Sort key of a kept hold: the surest comparison first, then the gravest contradiction."""
    surest = min((_SUREST.index(By(b)) for b in by if b in set(By)), default=len(_SUREST))
    return surest, _GRAVEST.index(Why(why)) if why in set(Why) else len(_GRAVEST)
