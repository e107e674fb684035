"""What the index of a space answers of many points, asked on a thread of its own while the points are being recorded.

Looking for whom a newcomer resembles is FAISS's work for the most part, which leaves Python to others, and the more are
registered the longer it takes. So the next points are looked for while the rows of those before are made and written:
the answers are those of one snapshot, part by part, whoever waits for them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog import vectors
from w2w_registry.catalog.models import Space
from w2w_registry.services.recording.nearest import open_nearest
from w2w_registry.services.registry import Registry

NEIGHBOURS = 4  # that a newcomer is compared with in a space
MANY = 256  # points of which each is looked for less hard
PART: Final = 1024  # points answered at once


@dataclass(frozen=True, eq=False)
class Searched:
    """What the index of a space answered of several points, as the catalog was after event ``seq``: the best version
    ids (q, m) and scores (q, m), and how many versions there were."""

    space_id: int
    seq: int
    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    size: int


class Searching:
    """The answers to some points, ``PART`` after ``PART``, as they come."""

    def __init__(self, parts: Sequence[Future[Searched]]) -> None:
        self._parts = parts

    def of(self, start: int, stop: int) -> Searched:
        """The answers to those points, some or more; waits for them."""
        first = start // PART
        found = [part.result() for part in self._parts[first : -(-stop // PART)]]
        rows = slice(start - first * PART, stop - first * PART)
        ids, scores = (np.concatenate([getattr(one, name) for one in found])[rows] for name in ("ids", "scores"))
        return replace(found[0], ids=ids, scores=scores)

    def begun(self) -> None:
        """Wait for the first third of the answers: the others come while what belongs to these is recorded."""
        if self._parts:
            self._parts[(len(self._parts) - 1) // 3].result()


@contextmanager
def searching(registry: Registry, space: Space, coordinates: NDArray[np.float32]) -> Iterator[Searching]:
    """The ``NEIGHBOURS`` nearest of every point (q, k), looked for by another thread from now on; what nobody waited
    for when the block ends is not looked for."""
    parts = [coordinates[start : start + PART] for start in range(0, len(coordinates), PART)]
    answers = _answers(registry, space, parts, fast=len(coordinates) >= MANY)
    with ThreadPoolExecutor(1) as thread:
        try:
            yield Searching([thread.submit(next, answers) for _ in parts])
        finally:
            thread.shutdown(cancel_futures=True)
            answers.close()


def _answers(
    registry: Registry, space: Space, parts: Sequence[NDArray[np.float32]], *, fast: bool
) -> Generator[Searched, None, None]:
    """The answers to each part, all as one snapshot has them, which is let go of before the last is told."""
    with registry.catalog.read() as session:
        seq, nearest = vectors.last_seq(session), None
        if vectors.count(session, space.id, most=1):
            nearest = open_nearest(registry, session, space)
        for number, points in enumerate(parts, 1):
            if nearest is None:
                ids, scores = np.zeros((len(points), 0), np.int64), np.zeros((len(points), 0), np.float32)
            else:
                ids, scores = nearest.search(points, NEIGHBOURS, fast=fast)
            found = Searched(space.id, seq, ids, scores, 0 if nearest is None else nearest.size)
            if number < len(parts):
                yield found
    yield found
