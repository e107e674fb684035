"""Ways of training whose outcome is presumed, where no repeats taught it: the noise, and how much is learned of whom.

A wrong assumption lets somebody be missed; it raises no alarm, because how near strangers come is counted on the
registered by the same comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from w2w_registry.space.spread import Array, Training

WHITE: Final = 0.015
"""Presumed noise of one training, as a share of people's variance: the mini world's retrained show .02, not all of it
in the directions that are compared (chosen, with the door's alarm, on those of its people who have even numbers)."""
PRESUMED: Final = "presumed"
DISTURBED: Final = "presumed disturbed"


@dataclass(frozen=True)
class Way:
    """A way of training whose outcome is presumed. What it makes of people is ``gain`` times as far from the base
    model's own answer in the direction in which they vary most, and in others times (σ / σ₁)^``fade``: what few people
    have in common is learned last. Its noise is ``white`` times ``WHITE``, and ``share`` of people's variance.
    ``apart``: at the door it is asked by itself."""

    name: str
    gain: float
    fade: float
    white: float
    share: float
    apart: bool = False


TRAINED: Final = (
    Way(PRESUMED, 1.0, 0.0, 1.0, 0.0),
    Way(f"{PRESUMED} of another kind", 1.13, 0.0, 2.0, 0.0),
    Way(f"{PRESUMED} fainter", 0.9, 0.0, 2.0, 0.0),
    Way(f"{PRESUMED} longer", 1.1, -0.2, 3.0, 0.0),
    Way(f"{PRESUMED} shorter", 0.75, 0.35, 1.0, 0.04, apart=True),
)
"""As the registered are trained, by another tool, by one that learns less, twice as long, a third as long. Of the
last so little is sure that strangers come nearer by it: the door asks it apart, so that the others need no better
evidence for it."""
WAYS: Final = (*TRAINED, Way(DISTURBED, 1.0, 0.0, 1.0, 0.25, apart=True))
"""…and somebody's model with noise of half of people's spread, or mixed: no training, and asked of what was made
alone (``refusal.Comparison.with_made``)."""


def trainings(total: Array, base: Array, ways: tuple[Way, ...] = WAYS) -> tuple[Training, ...]:
    """The ways among people who vary by ``total`` (d, d) in order of their variances; ``base`` (d,) is where the base
    model's own answer lies among them."""
    width, variance = len(total), np.diag(total)
    white = WHITE * np.trace(total) / width * np.eye(width)
    found = []
    for way in ways:
        gain: float | Array = way.gain
        if way.fade:
            gain = way.gain * np.sqrt(np.maximum(variance / variance[0], 1e-6)) ** way.fade
        offset = (1 - gain) * base
        apart = np.zeros(0) if way.apart else None
        found.append(Training(way.name, 0, gain, offset, way.white * white + way.share * np.diag(variance), 0.0, apart))
    return tuple(found)
