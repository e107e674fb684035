"""References: what is kept of a likeness that refused, so that it is known again and cannot be had back.

A reference is the signs of ``BITS`` random projections of a vector (SimHash: Charikar, STOC 2002): two vectors at angle
φ differ in a bit with probability φ/π, so the share of equal bits estimates their cosine. The projections come from
a secret key, one set per context (a weight space, the sketch), and the bits are stored combined with a stream drawn
from the key and a salt of the reference's own. Without the key a reference is noise: it can be neither compared nor
turned back, nor told to be of the same person as another. With the key it serves this one comparison.

The key is no part of the catalog (see ``services.consent.door``): a copy of the database says nothing about anybody's
looks.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import acos, cos, pi, sqrt

import numpy as np
from numpy.typing import NDArray

BITS = 2048
"""The estimated angle's standard deviation is at most 180°·√(1/4/2048) = 2°."""
ESTIMATED = pi / 2 / sqrt(BITS)
"""The standard deviation of an estimated cosine near nought."""
DEVIATIONS, LOWEST, HIGHEST = 4.5, 0.55, 0.95
"""A newcomer is refused from so many robust standard deviations above strangers, but not below ``LOWEST`` nor above
``HIGHEST``. People outside the fit come nearer to one another than its members do, with a heavy tail: on the mini world
one pair in 100,000 reaches .50 (docs/door.md), so that a hundred references refuse fewer than one stranger in a
thousand; copies lie above .9 and mixtures of at least a half above .7."""

_FEW = 30
_WITHOUT_STRANGERS = cos(pi / 4)


@dataclass(frozen=True, eq=False)
class Reference:
    """Whose, the kept bits as opened with the key (bool, ``BITS``), and the cosine from which a newcomer is refused."""

    subject: str
    bits: NDArray[np.bool_]
    threshold: float


@dataclass(frozen=True)
class Encounter:
    """The gravest of what a likeness was held against: of whom, how near, from where on it is refused, and by what.

    ``doubt``: from where on it is held for a person to look at; None: that comparison refuses or lets pass."""

    subject: str
    similarity: float
    threshold: float
    by: str
    doubt: float | None = None

    @property
    def refused(self) -> bool:
        return self.similarity >= self.threshold

    @property
    def doubtful(self) -> bool:
        """Too like to pass, and not like enough to be refused."""
        return not self.refused and self.doubt is not None and self.similarity >= self.doubt


def key_id(key: bytes) -> str:
    """Eight hex digits that name a key and say nothing about it."""
    return hmac.new(key, b"w2w door key id", hashlib.sha256).hexdigest()[:8]


def bits_of(vectors: NDArray[np.floating], key: bytes, context: str) -> NDArray[np.bool_]:
    """Signs (n, ``BITS``) of the projections of vectors (n, d) or (d,)."""
    points = np.atleast_2d(np.asarray(vectors, np.float64))
    return np.asarray(points @ _projections(key, context, points.shape[1]).T >= 0)


def seal(plain: bytes, key: bytes, salt: bytes) -> bytes:
    """Bytes as they are stored: combined with a stream of the key and the salt; sealing again opens them."""
    return bytes(a ^ b for a, b in zip(plain, _stream(key, salt, len(plain)), strict=True))


def seal_bits(bits: NDArray[np.bool_], key: bytes, salt: bytes) -> bytes:
    """The bits (``BITS``,) as they are stored."""
    return seal(np.packbits(bits).tobytes(), key, salt)


def unseal_bits(stored: bytes, key: bytes, salt: bytes) -> NDArray[np.bool_]:
    """The bits (``BITS``,) of what :func:`seal_bits` made."""
    return np.unpackbits(np.frombuffer(seal(stored, key, salt), np.uint8)).astype(bool)


def cosines(mine: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Estimated cosines of bits (b,) or (n, b) with bits (m, b): (m,) or (n, m); b is ``BITS``, or a multiple."""
    # ±1 in float32: their inner products are whole numbers far below 2^24, so the counts are exact
    a, b = (2 * np.asarray(bits, np.float32) - 1 for bits in (mine, np.atleast_2d(theirs)))
    size = a.shape[-1]
    differing = (size - a @ b.T) / 2
    return np.asarray(np.cos(pi * differing.astype(np.float64) / size))


def likeliest(bits: NDArray[np.bool_], key: bytes, contexts: Sequence[str], size: int) -> NDArray[np.float64]:
    """Unit vectors (m, ``size``) whose signs, ``BITS`` for each of ``contexts``, come nearest to ``bits`` (m, b).

    Least squares on the signs (Plan & Vershynin 2017: it finds the direction although the signs are no linear function
    of it). Whoever holds the key can do this; a comparison that learns from those it knows has to.
    """
    # whole numbers far below 2^24, so float32 is exact
    gram, right = np.zeros((size, size), np.float32), np.zeros((len(bits), size), np.float32)
    signs = 2 * np.asarray(bits, np.float32) - 1
    for context, part in zip(contexts, np.split(signs, len(contexts), axis=1), strict=True):
        projections = _projections(key, context, size).astype(np.float32)
        gram += projections.T @ projections
        right += part @ projections
    found = np.linalg.solve(gram.astype(np.float64), right.T.astype(np.float64)).T
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-30))


def threshold(strangers: NDArray[np.floating]) -> float:
    """The cosine from which on a newcomer is refused, from a reference's estimated cosines (n,) to other people.

    Median and spread (median absolute deviation) are robust: a few of the strangers may be the same person unnamed.
    With few strangers nothing is known of their spread: then half a right angle, or beyond all of them.
    """
    if strangers.size < _FEW:
        beyond = float(strangers.max()) + 0.05 if strangers.size else 0.0
        return min(HIGHEST, max(_WITHOUT_STRANGERS, beyond))
    middle = float(np.median(strangers))
    spread = 1.4826 * float(np.median(np.abs(strangers - middle)))
    return min(HIGHEST, max(LOWEST, middle + DEVIATIONS * spread))


def meet(references: Sequence[Reference], mine: NDArray[np.bool_], by: str) -> list[Encounter]:
    """For each of bits (n, ``BITS``) the reference that comes nearest to refusing it; nothing without references."""
    if not references:
        return []
    scores = cosines(np.atleast_2d(mine), np.stack([reference.bits for reference in references]))
    return nearest([r.subject for r in references], scores, [r.threshold for r in references], by)


def nearest(
    subjects: Sequence[str], scores: NDArray[np.floating], thresholds: Sequence[float], by: str
) -> list[Encounter]:
    """For each row of ``scores`` (n, m), m ≥ 1, the gravest of its encounters with the m subjects."""
    limits = np.asarray(thresholds, np.float64)
    margins = np.arccos(np.minimum(1.0, limits)) - np.arccos(np.clip(np.asarray(scores, np.float64), -1.0, 1.0))
    worst = margins.argmax(axis=1)
    return [Encounter(subjects[j], float(scores[i, j]), float(limits[j]), by) for i, j in enumerate(worst)]


def gravest(encounters: Sequence[Encounter]) -> Encounter | None:
    """The one farthest over its threshold, else one that is doubtful, else the one nearest under its threshold."""
    return max(
        encounters,
        key=lambda e: (e.refused, e.doubtful, acos(min(1.0, e.threshold)) - acos(min(1.0, e.similarity))),
        default=None,
    )


@lru_cache(maxsize=16)
def _projections(key: bytes, context: str, size: int) -> NDArray[np.float64]:
    """(``BITS``, size): sums of eight coin flips minus four, near Gaussian, the same on every machine."""
    seed = hmac.new(key, f"w2w door projections {context} {size}".encode(), hashlib.sha256).digest()
    flips = np.frombuffer(hashlib.shake_256(seed).digest(BITS * size), np.uint8)
    return _ONES[flips].reshape(BITS, size) - 4.0


def _stream(key: bytes, salt: bytes, size: int) -> bytes:
    return hashlib.shake_256(hmac.new(key, b"w2w door salt" + salt, hashlib.sha256).digest()).digest(size)


_ONES = np.array([i.bit_count() for i in range(256)], np.float64)
