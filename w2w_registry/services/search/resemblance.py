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
from w2w_registry.catalog.points import newest_points_named
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
    earlier = newest_points_named(session, space.id, names)
    found = []
    for row, name in enumerate(names):
        near = [
            (known[int(i)], int(i), float(s)) for i, s in zip(ids[row], scores[row], strict=True) if int(i) in known
        ]
        own = earlier.get(name)
        own_score = None if own is None else float(nearest.metric.score(coordinates[row], own))
        found.append(_warnings(near, name, set(subjects), threshold, own_score))
    return found


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
    own_score: float | None,
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
                f"suspiciously near {where}, which depicts another subject ({', '.join(sorted(known.subjects))})"
            )
        elif not (subjects & known.subjects):
            said.append(f"looks like {where}: the same identity under another name?")
    if own_score is not None and own_score < threshold:
        said.append(f"does not look like the version before it (score {own_score:.3f}, same from {threshold:.3f} up)")
    return tuple(said)
