"""Whom a new LoRA resembles, that its user should hear of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import named
from w2w_registry.catalog.lookup import subjects_of
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.points import points_named
from w2w_registry.records import Rank, Told
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.search.nearest import Nearest

_NEIGHBOURS = 3


def resemblances(
    session: Session,
    nearest: Nearest,
    space: Space,
    coordinates: NDArray[np.float32],
    names: Sequence[str],
    subjects: Sequence[str],
) -> list[tuple[str, ...]]:
    """What to tell of each new point (n, k), to be named ``names`` and said to depict ``subjects``."""
    ids, scores = nearest.search(coordinates, _NEIGHBOURS)
    known = _identities(session, {int(i) for i in ids.reshape(-1)})
    threshold = space.calibration.get("threshold")
    found = []
    for row, name in enumerate(names):
        near = [
            (known[int(i)], int(i), float(s)) for i, s in zip(ids[row], scores[row], strict=True) if int(i) in known
        ]
        found.append(_warnings(near, name, set(subjects), threshold))
    return found


@dataclass(frozen=True)
class Comparison:
    """How near a point comes to an identity: to the nearest of its versions in the space. ``threshold``: the score
    from which on it is the same identity, None where the space is not calibrated."""

    score: float
    threshold: float | None

    @property
    def same(self) -> bool:
        return self.threshold is not None and self.score >= self.threshold

    @property
    def other(self) -> bool:
        return self.threshold is not None and self.score < self.threshold


def compare(session: Session, space: Space, name: str, coordinates: NDArray[np.float32]) -> Comparison | None:
    """A new point (k,) against the active versions of the identity ``name``; None when none is in the space."""
    points = points_named(session, space.id, name)
    if not points:
        return None
    metric = metric_of(space)
    best = max(float(metric.score(coordinates, point)) for point in points)
    return Comparison(best, space.calibration.get("threshold"))


@dataclass(frozen=True)
class _Known:
    name: str
    number: int
    subjects: frozenset[str]


def _identities(session: Session, ids: set[int]) -> dict[int, _Known]:
    subjects = subjects_of(session, ids)
    return {
        i: _Known(one.name, one.number, frozenset(subjects.get(i, ())))
        for i, one in named(session, sorted(ids)).items()
    }


def _warnings(
    near: Sequence[tuple[_Known, int, float]],
    name: str,
    subjects: set[str],
    threshold: float | None,
) -> tuple[str, ...]:
    if threshold is None:
        return ()
    said = []
    for known, _, score in near:
        if score < threshold or known.name == name:
            continue
        where = f"{known.name}@{known.number} (score {score:.3f}, same identity from {threshold:.3f} up)"
        if subjects and known.subjects and not subjects & known.subjects:
            said.append(
                Told(
                    f"suspiciously near {where}, which depicts another subject ({', '.join(sorted(known.subjects))})",
                    Rank.LIKENESS,
                )
            )
        elif not (subjects & known.subjects):
            said.append(Told(f"looks like {where}: the same identity under another name?", Rank.LIKENESS))
    return tuple(said)
