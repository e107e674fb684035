"""The guard at the door: is this new LoRA a withdrawn or protected subject again?

What is kept of a protected subject is a salted sketch, not its coordinates: signs of random projections of the
(weighted) coordinates, the projections drawn from a secret salt (SimHash: Charikar, STOC 2002). Two vectors at
angle φ differ in a bit with probability φ/π, so the share of equal bits estimates their cosine. A sketch has
fewer bits than the space has numbers, and without its salt it says nothing; it serves this one comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, cos, pi

import numpy as np
from numpy.typing import NDArray

BITS = 512
"""Bits of a sketch: the estimated angle's standard deviation is at most 180°·√(1/4/512) = 4°."""


@dataclass(frozen=True)
class Reference:
    """A do-not-recreate reference: whose, in which space, from which version, by which salt.

    ``space_digest`` names the weight space; a sketch means nothing in another one. ``salt``: hex, 32 random bytes;
    ``sketch``: hex, ``BITS`` bits.
    """

    subject: str
    space_digest: str
    salt: str
    sketch: str


class Verdict(StrEnum):
    """``REFUSE``: as near as two LoRAs of one person are. ``FLAG``: nearer than strangers are, let a person look."""

    PASS = "pass"
    FLAG = "flag"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Thresholds:
    """Cosines of weighted coordinates from which on a LoRA is flagged, and refused."""

    flag: float
    refuse: float


@dataclass(frozen=True)
class Encounter:
    """What the guard found about one LoRA and its nearest reference."""

    verdict: Verdict
    subject: str
    similarity: float
    threshold: float


def sketch(coordinates: NDArray[np.floating], salt: str) -> str:
    """Sketch (hex, ``BITS`` bits) of weighted coordinates, shape (k,), by a salt (hex).

    The projections are sums of eight coin flips minus four, near Gaussian, from SHAKE-256 of the salt: the same on
    every machine and in every release of numpy.
    """
    vector = np.ascontiguousarray(coordinates, dtype=np.float64).ravel()
    stream = hashlib.shake_256(b"w2w-registry sketch 1" + bytes.fromhex(salt)).digest(BITS * vector.size)
    flips = np.bitwise_count(np.frombuffer(stream, np.uint8)) if hasattr(np, "bitwise_count") else _popcount(stream)
    projections = flips.astype(np.float64).reshape(BITS, vector.size) - 4.0
    return np.packbits(projections @ vector >= 0).tobytes().hex()


def _popcount(stream: bytes) -> NDArray[np.uint8]:
    # numpy before 2.0 has no bitwise_count.
    table = np.array([bin(i).count("1") for i in range(256)], np.uint8)
    return table[np.frombuffer(stream, np.uint8)]


def similarity(reference: Reference, coordinates: NDArray[np.floating]) -> float:
    """Estimated cosine (−1…1) between the referenced subject and weighted ``coordinates``, shape (k,)."""
    mine = bytes.fromhex(sketch(coordinates, reference.salt))
    differing = (int.from_bytes(mine) ^ int.from_bytes(bytes.fromhex(reference.sketch))).bit_count()
    return cos(pi * differing / BITS)


def thresholds(impostors: Sequence[float], *, refuse_rate: float = 0.001, flag_rate: float = 0.01) -> Thresholds:
    """Calibrate on cosines between different identities of the space itself.

    Args:
        impostors: cosines of pairs that are not the same person; at least one. With fewer than 1/rate of them the
            largest is the threshold, which is then stricter on newcomers than asked.
        refuse_rate, flag_rate: share of strangers that may be refused, and flagged, by mistake.

    Raises:
        ValueError: no pairs.
    """
    if not len(impostors):
        raise ValueError("no pairs to calibrate on")
    ordered = sorted(impostors)
    # The sketch blurs an angle by up to 4°; a threshold below the blur of orthogonal vectors would flag anything.
    floor = cos(pi / 2 - 3 * pi * (0.25 / BITS) ** 0.5)
    flag, refuse = (max(floor, _quantile(ordered, 1 - rate)) for rate in (flag_rate, refuse_rate))
    return Thresholds(flag=flag, refuse=max(flag, refuse))


def _quantile(ordered: Sequence[float], level: float) -> float:
    return ordered[min(len(ordered) - 1, ceil(level * len(ordered)))]


def meet(references: Iterable[Reference], coordinates: NDArray[np.floating], limits: Thresholds) -> Encounter | None:
    """The nearest reference and the verdict on it; None without references.

    ``references`` must all be of the space ``coordinates`` are in (the caller selects by ``space_digest``).
    """
    nearest: tuple[float, Reference] | None = None
    for reference in references:
        score = similarity(reference, coordinates)
        if nearest is None or score > nearest[0]:
            nearest = score, reference
    if nearest is None:
        return None
    score, reference = nearest
    if score >= limits.refuse:
        return Encounter(Verdict.REFUSE, reference.subject, score, limits.refuse)
    if score >= limits.flag:
        return Encounter(Verdict.FLAG, reference.subject, score, limits.flag)
    return Encounter(Verdict.PASS, reference.subject, score, limits.flag)
