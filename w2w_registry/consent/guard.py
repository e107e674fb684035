"""The guard at the door: is this new LoRA a withdrawn or protected subject again?

What is kept of a protected subject is a salted sketch, not its coordinates: signs of random projections of the
(weighted) coordinates, the projections drawn from a secret salt (SimHash: Charikar, STOC 2002). Two vectors at
angle φ differ in a bit with probability φ/π, so the share of equal bits estimates their cosine. A sketch has
fewer bits than the space has numbers, and without its salt it says nothing; it serves this one comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import acos, cos, pi

import numpy as np
from numpy.typing import NDArray

BITS = 512
"""Bits of a sketch: the estimated angle's standard deviation is at most 180°·√(1/4/512) = 4°."""


BLUR = pi * (0.25 / BITS) ** 0.5
"""One standard deviation (radians) of the angle a sketch estimates, at 90°, where it is largest."""


@dataclass(frozen=True)
class Reference:
    """A do-not-recreate reference: whose, by which salt, and the cosine from which on a newcomer is refused.

    It belongs to one weight space; a sketch means nothing in another one. ``salt``: 32 random bytes; ``sketch``:
    ``BITS`` bits.
    """

    subject: str
    salt: bytes
    sketch: bytes
    threshold: float


class Verdict(StrEnum):
    """``REFUSE``: at or over the threshold. ``FLAG``: so near under it that the sketch's blur may hide a match."""

    PASS = "pass"
    FLAG = "flag"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Encounter:
    """What the guard found about one LoRA and its nearest reference."""

    verdict: Verdict
    subject: str
    similarity: float
    threshold: float


def sketch(coordinates: NDArray[np.floating], salt: bytes) -> bytes:
    """Sketch (``BITS`` bits) of weighted coordinates, shape (k,).

    The projections are sums of eight coin flips minus four, near Gaussian, from SHAKE-256 of the salt: the same on
    every machine and in every release of numpy.
    """
    return np.packbits(_projections(salt, coordinates.size) @ coordinates.astype(np.float64).ravel() >= 0).tobytes()


def _projections(salt: bytes, size: int) -> NDArray[np.float64]:
    stream = hashlib.shake_256(b"w2w-registry sketch 1" + salt).digest(BITS * size)
    flips = np.bitwise_count(np.frombuffer(stream, np.uint8)) if hasattr(np, "bitwise_count") else _popcount(stream)
    return flips.astype(np.float64).reshape(BITS, size) - 4.0


def _popcount(stream: bytes) -> NDArray[np.uint8]:
    # numpy before 2.0 has no bitwise_count.
    table = np.array([bin(i).count("1") for i in range(256)], np.uint8)
    return table[np.frombuffer(stream, np.uint8)]


def similarities(salt: bytes, mine: bytes, coordinates: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimated cosines (n,) between a sketched point and weighted ``coordinates``, shape (n, k)."""
    points = np.atleast_2d(coordinates).astype(np.float64)
    bits = points @ _projections(salt, points.shape[1]).T >= 0
    differing = (bits != np.unpackbits(np.frombuffer(mine, np.uint8)).astype(bool)).sum(axis=1)
    return np.asarray(np.cos(pi * differing / BITS))


def threshold(impostors: NDArray[np.floating], *, false_match_rate: float = 0.001) -> float:
    """The cosine from which on a newcomer is refused, from the reference's similarities to strangers.

    Args:
        impostors: estimated cosines, shape (n,), of identities of the same space that are somebody else.
        false_match_rate: share of strangers that may be refused by mistake. With fewer than 1/rate strangers the
            threshold lies beyond all of them.

    Three standard deviations of the sketch above orthogonal is the least it can be: nearer to that, anything matches.
    """
    floor = cos(pi / 2 - 3 * BLUR)
    if not impostors.size:
        return cos(pi / 4)
    ordered = np.sort(impostors)
    place = int(np.ceil((1 - false_match_rate) * len(ordered)))
    if place < len(ordered):
        return max(floor, float(ordered[place]))
    beyond = min(1.0, float(ordered[-1]))
    return max(floor, cos(max(0.0, acos(beyond) - BLUR)))


def meet(references: Iterable[Reference], coordinates: NDArray[np.floating]) -> Encounter | None:
    """The gravest verdict on weighted ``coordinates``, shape (k,), and the reference it is about; None without any."""
    found: Encounter | None = None
    for reference in references:
        score = float(similarities(reference.salt, reference.sketch, coordinates)[0])
        flag = cos(acos(min(1.0, reference.threshold)) + 2 * BLUR)
        near = Verdict.FLAG if score >= flag else Verdict.PASS
        verdict = Verdict.REFUSE if score >= reference.threshold else near
        one = Encounter(verdict, reference.subject, score, reference.threshold)
        if found is None or (_GRAVITY[verdict], score) > (_GRAVITY[found.verdict], found.similarity):
            found = one
    return found


_GRAVITY = {Verdict.PASS: 0, Verdict.FLAG: 1, Verdict.REFUSE: 2}
