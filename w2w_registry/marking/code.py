"""The error-correcting code of the watermark: a convolutional code, decoded softly by Viterbi's algorithm.

Rate 1/4, constraint length 9, with the generators of largest free distance (24); Proakis, Digital Communications,
table 8.2-3. The encoder starts and ends in state 0. Any number of carriers is used: carrier j belongs to step
``j % steps``, so that every step has its share wherever a picture is damaged.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

GENERATORS: Final = (0o463, 0o535, 0o733, 0o745)
MEMORY: Final = 8
_STATES: Final = 1 << MEMORY
_IMPOSSIBLE: Final = -1e30


def to_bits(number: int, count: int) -> NDArray[np.uint8]:
    """(count,) bits of ``number``, most significant first."""
    return np.array([number >> shift & 1 for shift in range(count - 1, -1, -1)], np.uint8)


def from_bits(bits: NDArray[np.uint8]) -> int:
    """The number ``to_bits`` was given."""
    return int("".join(map(str, bits.tolist())) or "0", 2)


def encode(bits: NDArray[np.uint8], carriers: int) -> NDArray[np.float32]:
    """(carriers,) signs ±1 that say ``bits``."""
    state, table = 0, _outputs()
    words = []
    for bit in [*bits.tolist(), *[0] * MEMORY]:
        register = bit << MEMORY | state
        words.append(table[register])
        state = register >> 1
    step, generator = _places(carriers, len(words))
    return np.asarray(words, np.float32)[step, generator]


def decode(soft: NDArray[np.floating], count: int) -> NDArray[np.uint8]:
    """The ``count`` bits whose signs correlate best with ``soft`` (carriers,): maximum likelihood (Viterbi)."""
    steps = count + MEMORY
    sums = np.zeros((steps, len(GENERATORS)))
    np.add.at(sums, _places(soft.size, steps), soft)
    gains = (sums @ _outputs().T).reshape(steps, _STATES, 2)
    before = (np.arange(2 * _STATES) & (_STATES - 1)).reshape(_STATES, 2)
    score = np.full(_STATES, _IMPOSSIBLE)
    score[0] = 0.0
    came_from = np.empty((steps, _STATES), np.int64)
    states = np.arange(_STATES)
    for step in range(steps):
        paths = score[before] + gains[step]
        best = paths.argmax(axis=1)
        score, came_from[step] = paths[states, best], before[states, best]
        if step >= count:  # the closing bits are known to be zero
            score[_STATES // 2 :] = _IMPOSSIBLE
    state, bits = 0, np.empty(steps, np.uint8)
    for step in range(steps - 1, -1, -1):
        bits[step] = state >> (MEMORY - 1)
        state = int(came_from[step, state])
    return bits[:count]


@lru_cache(maxsize=1)
def _outputs() -> NDArray[np.float64]:
    """(2·states, generators) signs: output for each register, newest bit highest."""
    registers = range(2 * _STATES)
    return np.array([[1 - 2 * ((r & g).bit_count() & 1) for g in GENERATORS] for r in registers], np.float64)


def _places(carriers: int, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    index = np.arange(carriers)
    return index % steps, index // steps % len(GENERATORS)
