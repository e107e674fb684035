"""Which of many new models are plainly new: known by no file, no digest and no sketch, to the catalog or one another.

``equivalents.known_model`` says the same of one, exactly, in several statements; this says it of hundreds in a few, and
leaves to it whatever may be known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.likeness import sketch_numbers, sketches_of
from w2w_registry.catalog.lookup import known_among
from w2w_registry.catalog.vectors import unpack
from w2w_registry.space.sketch import KIND, NEAR, PROBES, Sketch, distance


@dataclass(frozen=True, eq=False)
class Arrival:
    """A model on its way in: of its file, of its numbers (exact, and as fp16 and bf16 round them), of its ΔW."""

    sha256: str
    digests: tuple[str, ...]
    sketch: Sketch | None


class Sketchbook:
    """The numbers that sketches are searched by, of every version, read once for a command and topped up: 40 bytes a
    version."""

    def __init__(self) -> None:
        self._ids = np.zeros(0, np.int64)
        self._numbers = np.zeros((0, 4))  # norm and keys, by the first key
        self._last = 0

    def top_up(self, session: Session) -> None:
        """Read what was recorded since the last time."""
        ids, numbers = sketch_numbers(session, KIND, self._last)
        if len(ids):
            self._last = int(ids[-1])
            ids, numbers = np.concatenate([self._ids, ids]), np.concatenate([self._numbers, numbers])
            order = np.argsort(numbers[:, 1], kind="stable")
            self._ids, self._numbers = ids[order], numbers[order]

    def candidates(self, sketches: Sequence[Sketch]) -> list[NDArray[np.int64]]:
        """For each sketch the versions, in any state, whose sketch may be near it by norm and keys."""
        wanted = np.array([(sketch.norm, *sketch.keys()) for sketch in sketches], np.float64).reshape(-1, 4)
        starts = np.searchsorted(self._numbers[:, 1], wanted[:, 1] - NEAR)
        ends = np.searchsorted(self._numbers[:, 1], wanted[:, 1] + NEAR, side="right")
        found = []
        for start, end, mine in zip(starts, ends, wanted, strict=True):
            part = self._numbers[start:end]
            norms = np.abs(part[:, 0] - mine[0]) <= NEAR * np.maximum(part[:, 0], mine[0])
            found.append(self._ids[start:end][norms & (np.abs(part[:, 1:] - mine[1:]) <= NEAR).all(axis=1)])
        return found


def plainly_new(session: Session, arrivals: Sequence[Arrival], book: Sketchbook) -> list[bool]:
    """For each arrival whether nothing in the catalog, and no other arrival, can be the same model."""
    book.top_up(session)
    files, models = known_among(
        session, [a.sha256 for a in arrivals], [digest for a in arrivals for digest in a.digests]
    )
    seen = Counter(key for a in arrivals for key in {a.sha256, *a.digests})
    sketched = [(i, a.sketch) for i, a in enumerate(arrivals) if a.sketch is not None and a.sketch.norm > 0]
    apart = dict(zip((i for i, _ in sketched), _apart(session, [sketch for _, sketch in sketched], book), strict=True))
    found = []
    for i, arrival in enumerate(arrivals):
        keys = {arrival.sha256, *arrival.digests}
        known = arrival.sha256 in files or not models.isdisjoint(arrival.digests)
        found.append(apart.get(i, False) and not known and all(seen[key] == 1 for key in keys))
    return found


def _apart(session: Session, sketches: Sequence[Sketch], book: Sketchbook) -> NDArray[np.bool_]:
    """Which of new sketches are near none of a version's and no other of them."""
    if not sketches:
        return np.zeros(0, bool)
    values = np.array([sketch.values for sketch in sketches], np.float64)
    norms = np.array([sketch.norm for sketch in sketches])
    square = np.einsum("nd,nd->n", values, values)
    between = np.sqrt(np.maximum(square[:, None] + square - 2 * values @ values.T, 0.0)) / np.sqrt(PROBES)
    near = between <= (NEAR + 1e-6) * np.maximum(norms[:, None], norms)
    apart = near.sum(axis=1) == 1  # itself
    candidates = book.candidates(sketches)
    stored = sketches_of(session, KIND, {int(i) for ids in candidates for i in ids})
    for i, (sketch, ids) in enumerate(zip(sketches, candidates, strict=True)):
        others = (stored[int(j)] for j in ids if int(j) in stored)
        apart[i] &= all(distance(sketch, Sketch(unpack(row.data), row.norm)) > NEAR for row in others)
    return np.asarray(apart, bool)
