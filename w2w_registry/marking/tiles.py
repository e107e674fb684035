"""The tiles of the watermark: how a picture becomes one, which coefficients of its spectrum are used, how they count.

``embed`` and ``detect`` (``marking.watermark``) see a picture in the same way; this is that way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Real = NDArray[np.float32]
Complex = NDArray[np.complexfloating]

WINDOW: Final = 15
FLOOR: Final = 8.0
"""Grey levels below which the local deviation hardly counts."""
CLIP: Final = 3.0
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
PUBLIC_KEY: Final = b"w2w-registry presence mark 1"
"""The key of the presence. It is no secret, or nobody else could detect anything. Whoever knows it can remove or
forge the presence; the number beside it needs the registry's secret."""
ID_BITS: Final = 32
CHECK_BITS: Final = 16


@dataclass(frozen=True)
class Profile:
    """How a tile is used: its side, the band (cycles a tile: radius from, each axis up to), the share of coefficients
    that say presence, the bits carried, and the PSNR that embedding keeps to (dB).

    A tile's side is chosen so that it fits some sixteen times: then the host's own spectrum, which adds up at random,
    stays near the mark's, which adds up in step.
    """

    tile: int
    low: float
    high: int
    presence: float
    bits: int
    psnr: float


LARGE: Final = Profile(128, 6.0, 30, 0.40, ID_BITS + CHECK_BITS, 43.0)
MIDDLE: Final = Profile(64, 3.0, 15, 0.42, ID_BITS + CHECK_BITS, 40.05)
SMALL: Final = Profile(32, 1.5, 10, 1.0, 0, 40.05)
PROFILES: Final = (LARGE, MIDDLE, SMALL)


def profile_of(height: int, width: int) -> Profile:
    """The tile that pictures of this size are marked with."""
    area, side = height * width, min(height, width)
    if area >= 448**2 and side >= 144:
        return LARGE
    if area >= 192**2 and side >= 72:
        return MIDDLE
    return SMALL


def luma(pixels: Pixels) -> Real:
    return pixels.astype(np.float32) @ _LUMA


def flatten(luma: Real) -> tuple[Real, Real]:
    """Luma without its local mean, weighed down where it varies much; and its local deviation."""
    mean = _box(luma)
    deviation: Real = np.sqrt(np.maximum(_box(luma * luma) - mean * mean, 0.0))
    scaled: Real = np.clip((luma - mean) / (deviation + FLOOR), -CLIP, CLIP)
    flat: Real = scaled * (deviation + np.float32(FLOOR)) * weight_of(deviation)
    return flat, deviation


def weight_of(deviation: Real) -> Real:
    """What a grey level counts for: less where the picture itself is loud."""
    weight: Real = np.sqrt(np.float32(FLOOR)) * (deviation + np.float32(FLOOR)) ** np.float32(-1.5)
    return weight


def _box(values: Real) -> Real:
    """Mean over a square of ``WINDOW`` pixels, edges repeated. Sums of 2, 4 and 8 make fifteen in six additions."""
    half = WINDOW // 2
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (half, half)
        x = np.moveaxis(np.pad(values, pad, mode="edge"), axis, 0)
        two = x[:-1] + x[1:]
        four = two[:-2] + two[2:]
        eight = four[:-4] + four[4:]
        size = values.shape[axis]
        total = eight[:size] + four[8 : 8 + size] + two[12 : 12 + size] + x[14 : 14 + size]
        values = np.moveaxis(total, 0, axis) * np.float32(1 / WINDOW)
    return values


def fold(flat: Real, tile: int) -> Real:
    """Mean (tile, tile) over all whole and broken tiles."""
    height, width = flat.shape
    down, across = -(-height // tile), -(-width // tile)
    padded = np.zeros((down * tile, across * tile), np.float32)
    padded[:height, :width] = flat
    total = padded.reshape(down, tile, across, tile).sum(axis=(0, 2))
    index = np.arange(tile)
    rows, columns = (height - index + tile - 1) // tile, (width - index + tile - 1) // tile
    folded: Real = total / np.maximum(rows[:, None] * columns[None], 1)
    return folded


def take(spectrum: Complex, profile: Profile) -> Complex:
    rows, columns, _ = carriers(profile)
    return spectrum[rows, columns]


def weigh(coefficients: Complex) -> tuple[Complex, NDArray[np.floating]]:
    """Unit vectors times weights, and the weights, (…, n): coefficients near zero have no phase worth trusting."""
    size = np.abs(coefficients)
    whole = size + spread(coefficients) + 1e-20
    return coefficients / whole, size / whole


def spread(coefficients: Complex) -> NDArray[np.floating]:
    spread: NDArray[np.floating] = 0.25 * np.median(np.abs(coefficients), axis=-1, keepdims=True)
    return spread


def ramp(rows: NDArray[np.int64], columns: NDArray[np.int64], shift: tuple[int, int], tile: int) -> Complex:
    """What a shift of the tile by ``shift`` does to each coefficient."""
    cycles = np.fft.fftfreq(tile)
    ramp: Complex = np.exp(-2j * np.pi * (cycles[rows] * shift[0] + cycles[columns] * shift[1]))
    return ramp


@lru_cache(maxsize=8)
def carriers(profile: Profile) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Rows and columns of the coefficients used, in an order drawn from the public key, and how many say presence."""
    index = np.fft.fftfreq(profile.tile, 1 / profile.tile).round().astype(np.int64)
    y, x = np.meshgrid(index, index, indexing="ij")
    half = (x > 0) | ((x == 0) & (y > 0))  # of a real picture's spectrum the other half says the same again
    rows, columns = np.nonzero(half & (np.maximum(abs(x), abs(y)) <= profile.high) & (np.hypot(x, y) >= profile.low))
    order = np.argsort(_random(PUBLIC_KEY + b" order", profile, rows.size), kind="stable")
    return rows[order], columns[order], round(profile.presence * rows.size)


@lru_cache(maxsize=32)
def phases(key: bytes, profile: Profile, count: int) -> NDArray[np.floating]:
    return 2 * np.pi * _random(key, profile, count)


def _random(key: bytes, profile: Profile, count: int) -> NDArray[np.floating]:
    """``count`` numbers in [0, 1) from a key, the same on every machine (SHAKE-256)."""
    stream = hashlib.shake_256(b"w2w-registry mark 1 %d " % profile.tile + key).digest(4 * count)
    return np.frombuffer(stream, "<u4") / 2.0**32
