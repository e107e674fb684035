"""Who is who among all registered: identities that are one person, by behaviour or by weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.artifacts import ArtifactStore
from w2w_registry.catalog import vectors
from w2w_registry.catalog.fingerprints import Asked
from w2w_registry.catalog.identities import named
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.resolve import all_spaces, space_for
from w2w_registry.errors import NoFingerprints, NothingCompared, UsageError
from w2w_registry.services.recording.fingerprints import opener_for
from w2w_registry.services.recording.gallery import best_question, open_answered
from w2w_registry.services.recording.spaces import load_space, metric_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.pairs import near_pairs
from w2w_registry.space.people import pairs_of_one
from w2w_registry.space.verdict import LEAST_GALLERY
from w2w_registry.space.weight_pairs import LEAST, MOST, pairs_by_weights


@dataclass(frozen=True)
class Link:
    """Two rows that are one person, and how sure that is: ``score`` (more is surer), and the chance that a stranger's
    search among all comes as near."""

    one: int
    other: int
    score: float
    false_alarm: float | None


@dataclass(frozen=True)
class Groups:
    """``groups``: names of identities that are one person, the surest group first, and of each the ``weakest`` link
    that holds it together. ``by`` what they were compared. ``strangers``: how many of the ``links`` are to be expected
    between two people; None: nobody knows. ``spaces``: how many there were to compare in, by weights each by itself."""

    groups: tuple[tuple[str, ...], ...]
    weakest: tuple[Link, ...]
    by: str
    compared: int
    links: int
    strangers: float | None
    spaces: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "compared": self.compared,
            "groups": [list(names) for names in self.groups],
            "scores": [link.score for link in self.weakest],
            "false_alarms": [link.false_alarm for link in self.weakest],
            "links": self.links,
            "false_links": self.strangers,
            "spaces": self.spaces,
        }


def groups(
    registry: Registry, by: Literal["weights", "behaviour"] | None = None, *, space: str | None = None
) -> Groups:
    """Identities in service that are one person under several names. ``by`` None: behaviour where it was taken.

    Two identities are linked when each is found by a search for the other (``space.people``); links join into groups.
    By weights everybody is compared with the others in the same space, in every space unless one is named.

    Raises:
        UsageError: behaviour was asked for and too few versions have a fingerprint; nobody has
        coordinates in the space, or it was never calibrated. NothingCompared: there is no space either. NotFound: no
        such space.
    """
    with registry.catalog.read() as session:
        asked = None if by == "weights" or space is not None else best_question(session)
        if asked is None and by == "behaviour":
            raise NoFingerprints(least=LEAST_GALLERY)
        if asked is not None:
            found = _by_behaviour(session, asked)
        else:
            rows = all_spaces(session)[::-1] if space is None else [space_for(session, space)]
            if not rows:
                raise NothingCompared(least=LEAST_GALLERY, at_hand=opener_for(registry, None, None) is not None)
            found = _in_spaces(session, registry.artifacts, rows)
    joined = _joined(found.links, found.identities)
    return Groups(
        groups=tuple(tuple(sorted(found.names[i] for i in group)) for group, _ in joined),
        weakest=tuple(link for _, link in joined),
        by="weights" if asked is None else "behaviour",
        compared=len(set(found.identities)),
        links=len(found.links),
        strangers=found.strangers,
        spaces=found.spaces,
    )


@dataclass(frozen=True)
class _Found:
    """Links between rows, the surest first; the identity of each row, identities' names; see ``Groups``."""

    links: Sequence[Link]
    identities: Sequence[int]
    names: Mapping[int, str]
    strangers: float | None
    spaces: int = 0


def _by_behaviour(session: Session, asked: Asked) -> _Found:
    there = open_answered(session, asked)
    versions = there.gallery.versions.tolist()
    known = named(session, versions)
    identities = [known[v].identity_id for v in versions]
    pairs = pairs_of_one(there.matrix, np.asarray(identities), there.gallery.model)
    links = [Link(pair.i, pair.j, pair.score, pair.alarm) for pair in pairs]
    names = {one.identity_id: one.name for one in known.values()}
    return _Found(links, identities, names, max((pair.strangers for pair in pairs), default=0.0))


def _in_spaces(session: Session, artifacts: ArtifactStore, spaces: Sequence[Space]) -> _Found:
    """By weights, in each of the spaces by itself; of several, those that too few lie in are left out."""
    identities: list[int] = []
    names: dict[int, str] = {}
    links: dict[frozenset[int], Link] = {}
    strangers: float | None = 0.0
    used = 0
    for row in spaces:
        kept = vectors.matrix(session, row.id)
        if not len(kept.ids) or (len(spaces) > 1 and _untold(row, len(kept.ids))):
            continue
        known = named(session, kept.ids.tolist())
        own = [known[v].identity_id for v in kept.ids.tolist()]
        found, between = _by_weights(row, artifacts, kept.matrix, own)
        for one in found:  # two may lie together in several spaces
            pair = frozenset((own[one.one], own[one.other]))
            links.setdefault(pair, replace(one, one=one.one + len(identities), other=one.other + len(identities)))
        strangers = None if between is None or strangers is None else strangers + between
        identities += own
        names |= {one.identity_id: one.name for one in known.values()}
        used += 1
    if not used:
        told = "too few are in each of the spaces" if len(spaces) > 1 else "nobody in service has coordinates there"
        where = ", ".join(row.ref for row in spaces[:3])
        raise UsageError(reason=f"{told} ({where})", hint="name another with [[space]]")
    surest = sorted(links.values(), key=lambda link: 1.0 if link.false_alarm is None else link.false_alarm)
    return _Found(surest, identities, names, strangers, used)


def _by_weights(
    row: Space, artifacts: ArtifactStore, matrix: NDArray[np.float32], identities: Sequence[int]
) -> tuple[list[Link], float | None]:
    """Links between those in one space, and how many of them are to be expected between two people."""
    if len(set(identities)) >= LEAST and len(identities) <= MOST:
        space = load_space(artifacts, row)
        twice = pairs_by_weights(matrix, identities, [space.components[part] for _, part in space.layout.slices()])
        return [Link(pair.i, pair.j, pair.score, pair.alarm) for pair in twice.pairs], twice.strangers
    return _above_threshold(row, metric_of(row).unit(matrix), identities)


def _untold(row: Space, size: int) -> bool:
    """Whether nothing says which score means the same: too few are there to learn it from, and nobody calibrated."""
    return size < LEAST and row.calibration.get("threshold") is None


def _above_threshold(
    row: Space, units: NDArray[np.float32], identities: Sequence[int]
) -> tuple[list[Link], float | None]:
    """Links of all pairs that the space's calibration calls the same, the surest first, and how many strangers can be
    expected to be among them: where there are too few to learn from, or too many to compare all several times
    (``space.weight_pairs``)."""
    threshold, rate = row.calibration.get("threshold"), row.calibration.get("false_match_rate")
    if threshold is None:
        raise UsageError(reason=f"{row.ref} was never calibrated: nothing says which score means the same")
    people = len(set(identities))
    alarm = None if rate is None else -math.expm1(people * math.log1p(-rate))
    who = np.asarray(identities)
    found = near_pairs(units, float(threshold))
    apart = who[found.one] != who[found.other]
    rows = zip(found.one[apart].tolist(), found.other[apart].tolist(), found.score[apart].tolist(), strict=True)
    links = [Link(one, other, score, alarm) for one, other, score in rows]
    expected = None if rate is None else people * (people - 1) / 2 * rate
    return sorted(links, key=lambda link: -link.score), expected


def _joined(links: Sequence[Link], identities: Sequence[int]) -> list[tuple[list[int], Link]]:
    """Identities joined by links (the surest first), with the weakest link that holds each group together."""
    parent = {identity: identity for identity in identities}

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = x = parent[parent[x]]
        return x

    weakest: dict[int, tuple[int, Link]] = {}
    for rank, link in enumerate(links):
        a, b = root(identities[link.one]), root(identities[link.other])
        if a != b:
            parent[b] = a
            weakest[a] = rank, link
            weakest.pop(b, None)
    members: dict[int, list[int]] = {}
    for identity in dict.fromkeys(identities):
        members.setdefault(root(identity), []).append(identity)
    return [(members[r], weakest[r][1]) for r in sorted(weakest, key=lambda r: weakest[r][0])]
