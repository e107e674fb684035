"""A name is somebody's, and stays theirs once they are removed: whose models may become its next versions.

What is made of registered versions is a version of an identity when it is made of whom that one's versions are: of
itself, of the same subjects, or of the same others that one of its versions was made of. Anything else is refused,
since nothing but another name is lost. What was trained, found in photos or brought from outside is known by looks
alone: where it is less like every version of its name than strangers are like somebody, it is held (``unlike``). What
names a subject of that identity is taken at its word here; the second look asks further.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.holds import decided
from w2w_registry.catalog.identities import named, versions_under
from w2w_registry.catalog.lineage import sources
from w2w_registry.catalog.lookup import subjects_of
from w2w_registry.catalog.models import InputKind
from w2w_registry.catalog.operations import RESEMBLES
from w2w_registry.catalog.vectors import coordinates_of
from w2w_registry.consent.second_look import By, Why
from w2w_registry.errors import Conflict
from w2w_registry.services.consent.second_look import Near, Points, Said, SecondLook
from w2w_registry.services.recording.gallery import Gallery
from w2w_registry.services.recording.likeness import Likeness
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.recording.versions import Activity, Held
from w2w_registry.space.metrics import false_alarm_among

UNLIKE: Final = 0.8
"""By what is drawn: in so large a share of searches among so many people does a stranger come nearer to the best."""
UNLIKE_PAIRS: Final = 0.05
"""By weights: so many pairs of two people are nearer. (By searches, second trainings that weights show badly would be
held: .08 of the mini world's, where by pairs none is, nor any stranger let pass.)"""
_SHOWN: Final = 3
Stock = frozenset[tuple[str, object]]
"""Whom something is made of in the end: subjects, or identities that name none."""


def made_of(activity: Activity | None) -> list[int]:
    """Ids of the versions that something is made of."""
    inputs = () if activity is None else activity.inputs
    return [
        one.version_id
        for one in inputs
        if one.kind is InputKind.VERSION and one.version_id is not None and one.role != RESEMBLES
    ]


def check(session: Session, said: Iterable[tuple[str, Activity | None]]) -> None:
    """Raise unless everything made of versions bears a free name, or the name of what is made of the same people.

    Raises:
        Conflict.
    """
    made = [(name, of) for name, activity in said if (of := made_of(activity))]
    taken = versions_under(session, {name for name, _ in made})
    asked = [(name, of) for name, of in made if taken.get(name)]
    if not asked:
        return
    starts = {i for _, of in asked for i in of} | {i for name, _ in asked for i in taken[name]}
    stocks = _stocks(session, starts)
    for name, of in asked:
        mine: Stock = frozenset().union(*(stocks[i] for i in of))
        if all(stocks[i] != mine for i in taken[name]):
            refs = [f"{one.name}@{one.number}" for one in named(session, of).values()]
            more = f" and {len(refs) - _SHOWN} more" if len(refs) > _SHOWN else ""
            reason = f"is not whom this is made of ({', '.join(refs[:_SHOWN])}{more}); save it under another name"
            raise Conflict(what="identity", name=name, reason=reason)


def _stocks(session: Session, versions: Iterable[int]) -> dict[int, Stock]:
    """Whom each version is made of in the end."""
    parents = sources(session, versions)
    ends = [i for i, above in parents.items() if not above]
    subjects, identities = subjects_of(session, ends), named(session, ends)
    found: dict[int, Stock] = {
        i: frozenset(("subject", one) for one in subjects[i])
        if subjects.get(i)
        else frozenset([("identity", identities[i].name)])
        for i in ends
    }
    # What a version was made of was there before it, so its ids are smaller.
    for i in sorted(parents):
        if i not in found:
            found[i] = frozenset().union(*(found[above] for above in parents[i]))
    return found


def unlike(
    session: Session,
    second: SecondLook,
    said: Sequence[Said],
    likenesses: Sequence[Likeness],
    points: Sequence[Points],
) -> dict[int, Held]:
    """Which of many are not who the versions before them are, by their places: by what they draw where any of those
    versions has a fingerprint too, else by their weights."""
    asked = {i: name for i, (name, *_, activity) in enumerate(said) if not made_of(activity)}
    taken = versions_under(session, set(asked.values()))
    before = {i: taken[name] for i, name in asked.items() if taken.get(name)}
    named_of = subjects_of(session, {version for ids in before.values() for version in ids}) if before else {}
    found: dict[int, Held] = {}
    for i, ids in before.items():
        if set(said[i][2]) & {subject for version in ids for subject in named_of.get(version, ())}:
            continue
        near = _drawn(second, likenesses[i], ids)
        near = _placed(session, second, likenesses[i], points[i], ids) if near is None else near
        if near is not None and near.false_alarm >= (UNLIKE if near.by is By.BEHAVIOUR else UNLIKE_PAIRS):
            found[i] = _as_unlike(session, near)
    return found


def unlike_once_seen(session: Session, opened: Callable[[], Gallery], seen: Collection[int]) -> dict[int, Held]:
    """Which registered versions are not who the versions before them are, by what they draw, now that it was ``seen``
    of some versions of their names: those in the gallery, not made of others, whom nobody has decided about. The
    gallery is ``opened`` where a name has several versions."""
    taken = versions_under(session, {one.name for one in named(session, seen).values()})
    if all(len(ids) < 2 for ids in taken.values()):
        return {}
    gallery = opened()
    row_of = {version: row for row, version in enumerate(gallery.versions.tolist())}
    several = [[i for i in ids if i in row_of] for ids in taken.values()]
    later = {i: there[:place] for there in several for place, i in enumerate(there) if place}
    parents, done = sources(session, later), decided(session, later)
    said = subjects_of(session, {i for there in several for i in there}) if later else {}
    found: dict[int, Held] = {}
    for i, before in later.items():
        theirs = {subject for version in before for subject in said.get(version, ())}
        if i in done or parents[i] or theirs & set(said.get(i, ())):
            continue
        # As if it were not registered yet, nor any later version of that identity.
        asked = row_of[i]
        absent = (gallery.identities == gallery.identities[asked]) & ~np.isin(gallery.versions, before)
        scores = gallery.model.score_projected(np.asarray(gallery.points[[asked]]), gallery.points, absent[None])[0]
        near = _nearest_of(gallery, scores, [row_of[version] for version in before])
        if near.false_alarm >= UNLIKE:
            found[i] = _as_unlike(session, near)
    return found


def _as_unlike(session: Session, near: Near) -> Held:
    who = named(session, [near.version_id])[near.version_id]
    return Held(near.version_id, f"{who.name}@{who.number}", str(near.by), str(Why.NAME), near.score, near.false_alarm)


def _nearest_of(gallery: Gallery, scores: NDArray[np.float64], rows: Sequence[int]) -> Near:
    """Of the ``rows`` of a gallery the one with the best of the scores (n,) of a search."""
    best = rows[int(np.argmax(scores[list(rows)]))]
    alarm = float(gallery.model.judge(scores, gallery.size).false_alarm[best])
    return Near(int(gallery.versions[best]), By.BEHAVIOUR, float(scores[best]), alarm)


def _drawn(second: SecondLook, likeness: Likeness, ids: Sequence[int]) -> Near | None:
    """The nearest of the versions by what it draws; None where none can be compared."""
    for shown in likeness.prints:
        gallery = second.gallery(shown.base, shown.question)
        rows = np.zeros(0, int) if gallery is None else np.flatnonzero(np.isin(gallery.versions, ids))
        if gallery is not None and len(rows):
            (scores,), _ = gallery.verdicts(shown.values[None])
            return _nearest_of(gallery, scores, rows.tolist())
    return None


def _placed(
    session: Session, second: SecondLook, likeness: Likeness, points: Points, ids: Sequence[int]
) -> Near | None:
    """As ``_drawn``, by coordinates in the calibrated spaces that hold both: where it comes nearest, with the share of
    pairs of two people that do."""
    best: Near | None = None
    for space in second.spaces():
        there = coordinates_of(session, space.id, ids)
        point = second.point(space, likeness, points) if there else None
        if point is None:
            continue
        metric = metric_of(space)
        score, version = max((float(metric.score(point, other)), i) for i, other in there.items())
        threshold, rate = (float(space.calibration[key]) for key in ("threshold", "false_match_rate"))
        alarm = float(false_alarm_among(score, threshold, rate, 1))
        if best is None or alarm < best.false_alarm:
            best = Near(version, By.WEIGHTS, score, alarm)
    return best
