"""What is kept of what a refused likeness draws: signs of projections of its fingerprint, and its length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from w2w_registry.consent.references import BITS, bits_of

KIND = "behaviour"
_VIEW_SETS = 2
"""Sets per view of earlier references."""


@dataclass(frozen=True, eq=False)
class DrawnReference:
    """Of one subject: per view the bits (sets · ``BITS``,) and the length of what is expected of them."""

    subject: str
    bits: tuple[NDArray[np.bool_], ...]
    lengths: tuple[float, ...]


def drawn_bits(vectors: NDArray[np.floating], key: bytes, number: int, view: int, sets: int) -> NDArray[np.bool_]:
    """Signs (n, ``sets`` · ``BITS``)."""
    return np.concatenate([bits_of(vectors, key, context) for context in contexts(number, view, sets)], axis=1)


def contexts(number: int, view: int, sets: int) -> list[str]:
    """What names the projections of each set, of references made under this number."""
    return [f"{KIND} {number} {view} {n}" for n in range(sets)]


def sets_of(one: DrawnReference) -> int:
    """Of how many sets the first view's bits are."""
    return len(one.bits[0]) // BITS


def packed(bits: NDArray[np.bool_], length: float) -> bytes:
    """The bits and the length as they are kept, before they are sealed."""
    return np.packbits(bits).tobytes() + np.float32(length).tobytes()


def unpacked(subject: str, data: bytes, *, whole: bool) -> DrawnReference:
    """A reference as it was kept. ``whole``: it is of the fingerprint itself, of as many sets as there are."""
    size = len(data) - 4 if whole else _VIEW_SETS * BITS // 8
    parts = [data[i : i + size + 4] for i in range(0, len(data), size + 4)]
    bits = tuple(np.unpackbits(np.frombuffer(part[:size], np.uint8)).astype(bool) for part in parts)
    return DrawnReference(subject, bits, tuple(float(np.frombuffer(part[size:], "<f4")[0]) for part in parts))
