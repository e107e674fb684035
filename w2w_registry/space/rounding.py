"""Sums of products in which the order of adding does not show.

A product of matrices is summed in whatever order the machine's library finds fastest, so that its last bit differs
between machines, and between a row alone and the same row among others. Rounded to float32 afterwards, it hardly ever
matters: only where the sum lies within its own error of the middle between two float32 numbers. Those few sums are
worked out exactly, so that everybody has the same numbers, and the same digest of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNIT = 2.0**-53
# Beyond this a coordinate cannot be split into float32 pieces.
_LARGEST = float(np.finfo(np.float32).max)


def summing_error(terms: int) -> float:
    """How far a float64 sum of ``terms`` products of v and c is from the exact one, at most, as a share of ‖v‖‖c‖.

    Whatever the order: |error| ≤ γ Σ|vᵢcᵢ| with γ = n·u/(1 − n·u) (Higham, Accuracy and Stability of Numerical
    Algorithms, §3.1), and Σ|vᵢcᵢ| ≤ ‖v‖‖c‖. Doubled, for the rounding of the norms themselves.
    """
    products = terms + 2
    return 2 * products * _UNIT / (1 - products * _UNIT)


def exact_product(row: NDArray[Any], point: NDArray[np.float64]) -> float:
    """Σ rowᵢ·pointᵢ of float32 and float64 numbers (k,), rounded once.

    The product of two numbers of 24 bits is exact in float64, so the point is split into pieces of 24 + 24 + 5 bits
    (each with an exponent of its own), and all products are summed by :func:`math.fsum`.
    """
    wide = np.asarray(row, np.float64)
    products: list[float] = []
    rest = point
    while rest.any():
        bits, exponent = np.frexp(rest)
        piece = np.ldexp(bits.astype(np.float32).astype(np.float64), exponent)
        products += (wide * piece).tolist()
        rest = rest - piece
    return math.fsum(products)


def can_be_exact(points: NDArray[np.float64]) -> bool:
    """Whether all of these are numbers that :func:`exact_product` takes."""
    return bool((np.abs(points) <= _LARGEST).all())
