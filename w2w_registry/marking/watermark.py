"""An imperceptible mark in the pixels: a keyed spread-spectrum pattern that carries a random number.

The luma, freed of its local mean and weighed by its local deviation, is folded modulo a square tile; the mark lives in
the middle frequencies of the tile's spectrum. Every coefficient there has a phase drawn from a key. Some of them only
say that a mark is there and where the tile begins (the presence, under a key that everybody may know); the others
carry the number, through an error-correcting code (``marking.code``), under the registry's own secret.

What a detector claims is bounded, not estimated. θ_j being the angle between a coefficient and its keyed phase, and
w_j a weight that depends on the picture alone, for any picture that is independent of the key

    P(z > t) ≤ exp(−t²/2),   z = √2 Σ w_j cos θ_j / √(Σ w_j²),

because E exp(λ cos θ) = I₀(λ) ≤ exp(λ²/4) for a uniform angle (Chernoff). Times all positions, tiles and code words
tried (the union bound), this is the false alarm that is reported; a mark is claimed only below ``ALARM``.

``embed`` moves each coefficient to where the detector gains most for the distortion that the wanted PSNR allows.
It may choose where the tile begins and which of several numbers is carried, and takes what suits the picture best.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log, log10, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from w2w_registry.marking.code import decode, encode, from_bits, to_bits
from w2w_registry.marking.tiles import (
    CHECK_BITS,
    FLOOR,
    ID_BITS,
    PROFILES,
    PUBLIC_KEY,
    WINDOW,
    Complex,
    Pixels,
    Profile,
    carriers,
    flatten,
    fold,
    luma,
    phases,
    profile_of,
    ramp,
    spread,
    take,
    weigh,
    weight_of,
)

ALARM: Final = 1e-9
SMALLEST: Final = 16
"""Pictures with a side below this many pixels are left alone."""


_POSITIONS: Final = 2 * 8 * sum(p.tile**2 for p in PROFILES)
"""Every shift of every tile, turned by each quarter and mirrored, at full and at half size: what a detector tries."""


@dataclass(frozen=True)
class Found:
    """What a detector says of one picture.

    ``false_alarm`` bounds the probability that a picture without the mark looks like this one; ``present`` is
    ``false_alarm <= ALARM``. ``mark``: the number carried, when a secret was given and its check and its own bound
    (``mark_false_alarm``) hold. Since it was marked the picture was mirrored left to right (``mirrored``), then
    turned clockwise by so many degrees (``turned``), and ``enlarged`` to twice its size.
    """

    present: bool
    false_alarm: float
    mark: int | None = None
    mark_false_alarm: float = 1.0
    tile: int = 0
    mirrored: bool = False
    turned: int = 0
    enlarged: bool = False
    strength: float = 0.0


@dataclass(frozen=True, eq=False)
class Marked:
    """A marked picture, the number it carries (None: too small to carry one), the distortion, the detector's view."""

    pixels: Pixels
    mark: int | None
    psnr: float
    found: Found


# -- detecting ---------------------------------------------------------------------------------------
def detect(pixels: Pixels, secret: bytes | None = None) -> Found:
    """Look for the mark in (H, W, 3) uint8, and with the registry's ``secret`` for the number it carries.

    The number of a mark of another registry is not read: its check fails.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        return Found(False, 1.0)
    grey = luma(pixels)
    sights = _sights(grey)
    if max(sight.alarm for sight in sights) > ALARM and min(height, width) >= 2 * SMALLEST:
        sights += [replace(sight, enlarged=True) for sight in _sights(_halved(grey))]
    return _read(max(sights, key=lambda sight: sight.z), secret)


def _sights(grey: NDArray[np.float32]) -> list[_Sight]:
    """The best position of every tile that fits, upright or, where no mark is seen that way, in any way at all."""
    flat, _ = flatten(grey)
    tiles = [profile for profile in PROFILES if profile.tile <= 2 * min(grey.shape)]  # the smallest always
    spectra = [(profile, np.fft.fft2(fold(flat, profile.tile))) for profile in tiles]
    sights: list[_Sight] = []
    for ways in (_WAYS[:1], _WAYS[1:]):
        sights += [_look(spectrum, profile, ways) for profile, spectrum in spectra]
        if max(sight.alarm for sight in sights) <= ALARM:
            break
    return sights


def _halved(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of squares of four pixels: what a screen that shows each pixel as four makes of a picture, undone."""
    height, width = (side // 2 * 2 for side in grey.shape)
    left, right = grey[:height, 0:width:2], grey[:height, 1:width:2]
    halved: NDArray[np.float32] = (left[::2] + left[1::2] + right[::2] + right[1::2]) * np.float32(0.25)
    return halved


@dataclass(frozen=True, eq=False)
class _Sight:
    """The best position of one tile: its score, the shift, and the carriers' weighted unit vectors and weights."""

    z: float
    profile: Profile
    shift: tuple[int, int]
    way: tuple[int, bool]
    units: Complex
    weights: NDArray[np.floating]
    enlarged: bool = False

    @property
    def alarm(self) -> float:
        """Bounds the probability of such a sight, at any of all the positions, where there is no mark."""
        return _bound(self.z, log(_POSITIONS))


_WAYS: Final = tuple((quarters, mirrored) for quarters in range(4) for mirrored in (False, True))
"""How a picture may have been mirrored and then turned clockwise since it was marked; upright first."""


def _look(spectrum: Complex, profile: Profile, ways: Sequence[tuple[int, bool]]) -> _Sight:
    """The best position of one tile, its picture set upright each way. The spectrum of a tile that is turned or
    mirrored is its own with the axes changed, but for a shift; all shifts are tried."""
    rows, columns, _ = carriers(profile)
    places = [_upright(rows, columns, *way) for way in ways]
    units, weights = weigh(np.stack([spectrum[place] for place in places]))
    scores = _scores(units, weights, profile)
    way, peak = divmod(int(scores.argmax()), profile.tile**2)
    return _Sight(
        float(scores.flat[scores.argmax()]), profile, divmod(peak, profile.tile), ways[way], units[way], weights[way]
    )


def _upright(
    rows: NDArray[np.int64], columns: NDArray[np.int64], quarters: int, mirrored: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the coefficients of a tile lie in the spectrum of one that was mirrored and turned clockwise."""
    y, x = rows, -columns if mirrored else columns
    for _ in range(quarters):
        y, x = x, -y
    return y, x


def _scores(units: Complex, weights: NDArray[np.floating], profile: Profile) -> NDArray[np.floating]:
    """(…, tile, tile) z of the presence at every shift: phase correlation of (…, carriers)."""
    rows, columns, count = carriers(profile)
    grid = np.zeros((*units.shape[:-1], profile.tile, profile.tile // 2 + 1), np.complex128)
    # a real inverse transform counts each coefficient twice, except those of column 0
    once = np.where(columns[:count] == 0, 1.0, 0.5) * np.exp(-1j * phases(PUBLIC_KEY, profile, count))
    grid[..., rows[:count], columns[:count]] = units[..., :count] * once
    scale = profile.tile**2 * sqrt(2.0) / np.sqrt((weights[..., :count] ** 2).sum(axis=-1) + 1e-30)
    scores: NDArray[np.floating] = np.fft.irfft2(grid) * scale[..., None, None]
    return scores


def _read(sight: _Sight, secret: bytes | None) -> Found:
    profile, alarm = sight.profile, sight.alarm
    mark, mark_alarm = None, 1.0
    if secret is not None and profile.bits and alarm <= ALARM:
        rows, columns, count = carriers(profile)
        turned = sight.units[count:] / ramp(rows[count:], columns[count:], sight.shift, profile.tile)
        soft = (turned * np.exp(-1j * phases(secret, profile, rows.size - count))).real
        bits = decode(soft, profile.bits)
        signs = encode(bits, soft.size)
        z = sqrt(2.0) * float((soft * signs).sum()) / sqrt(float((sight.weights[count:] ** 2).sum()) + 1e-30)
        number, check = divmod(from_bits(bits), 1 << CHECK_BITS)
        mark_alarm = _bound(z, ID_BITS * log(2.0))
        if check == _check(number, secret) and mark_alarm <= ALARM:
            mark = number
    quarters, mirrored = sight.way
    return Found(
        alarm <= ALARM, alarm, mark, mark_alarm, profile.tile, mirrored, 90 * quarters, sight.enlarged, sight.z
    )


def _bound(z: float, tried: float) -> float:
    """min(1, exp(tried − z²/2)); ``tried``: natural logarithm of how many places or words were tried."""
    return exp(min(0.0, tried - max(z, 0.0) ** 2 / 2))


def _check(number: int, secret: bytes) -> int:
    digest = hmac.digest(secret, b"w2w-registry mark check" + number.to_bytes(ID_BITS // 8, "big"), "sha256")
    return int.from_bytes(digest[: CHECK_BITS // 8], "big")


# -- embedding ---------------------------------------------------------------------------------------
def embed(pixels: Pixels, secret: bytes, numbers: Sequence[int]) -> Marked:
    """Mark (H, W, 3) uint8 with one of ``numbers`` (each below 2³²; more to choose from make a stronger mark)."""
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        return Marked(pixels, None, float("inf"), Found(False, 1.0))
    profile = profile_of(height, width)
    flat, deviation = flatten(luma(pixels))
    amplitude = np.minimum(deviation, FLOOR) + FLOOR
    spectrum = take(np.fft.fft2(fold(flat, profile.tile)), profile)
    goal, number = _goal(spectrum, profile, secret, numbers)
    coupling = float((amplitude * weight_of(deviation)).mean())
    planner = _Planner.make(spectrum * goal.conj(), profile, coupling)
    wanted = profile.psnr
    budget = 255.0**2 / 10 ** (wanted / 10) / float((amplitude**2).mean()) * profile.tile**4 / 2

    def draw(moves: Complex) -> Pixels:
        tile = _tile_of(moves * goal, profile)
        across = np.tile(tile, (-(-height // profile.tile), -(-width // profile.tile)))[:height, :width]
        return np.clip(np.rint(pixels + (across * amplitude)[..., None]), 0, 255).astype(np.uint8)

    # What clipping, rounding and the overlap of tiles do to the PSNR is measured, and the budget set right.
    for _ in range(3):
        moves = planner.plan(budget)
        out = draw(moves)
        reached = _psnr(out, pixels)
        budget *= 10 ** ((min(reached, wanted + 6.0) - wanted) / 10)
    while reached < max(40.0, wanted - 0.1):
        moves = moves * 0.98
        out = draw(moves)
        reached = _psnr(out, pixels)
    return Marked(out, number, reached, detect(out, secret))


def _goal(spectrum: Complex, profile: Profile, secret: bytes, numbers: Sequence[int]) -> tuple[Complex, int | None]:
    """The unit vector each coefficient is to point along, and the number that says: where the tile begins and which
    number is carried are chosen for what the picture happens to say already."""
    rows, columns, count = carriers(profile)
    units, weights = weigh(spectrum)
    shift = divmod(int(_scores(units, weights, profile).argmax()), profile.tile)
    goal = np.empty(rows.size, np.complex128)
    goal[:count] = np.exp(1j * phases(PUBLIC_KEY, profile, count))
    number = None
    moved = ramp(rows, columns, shift, profile.tile)
    if profile.bits:
        keyed = np.exp(1j * phases(secret, profile, rows.size - count))
        soft = (units[count:] / (keyed * moved[count:])).real
        words = {n: encode(to_bits(n << CHECK_BITS | _check(n, secret), profile.bits), soft.size) for n in numbers}
        number = max(words, key=lambda n: float((words[n] * soft).sum()))
        goal[count:] = keyed * words[number]
    return goal * moved, number


@dataclass(frozen=True, eq=False)
class _Planner:
    """For every coefficient, seen along its goal, what each of some moves costs and what the detector gains by it."""

    moves: Complex
    gains: NDArray[np.floating]
    costs: NDArray[np.floating]

    @classmethod
    def make(cls, seen: Complex, profile: Profile, coupling: float) -> _Planner:
        """``seen`` (n,): coefficients along their goals; ``coupling``: how much of a move arrives there."""
        rows, columns, _ = carriers(profile)
        cycles = np.fft.fftfreq(profile.tile)
        passed = 1.0 - np.sinc(WINDOW * cycles[rows]) * np.sinc(WINDOW * cycles[columns])
        unit = 255.0 / 10 ** (profile.psnr / 20) * profile.tile**2 / sqrt(2.0 * rows.size) / (1.5 * FLOOR)
        turns = np.exp(2j * np.pi * np.arange(16) / 16)
        circles = unit * np.geomspace(0.08, 5.0, 12)[:, None] * turns[None]
        moves: Complex = np.concatenate([np.zeros(1, np.complex128), circles.ravel()])
        after = seen[:, None] + moves[None] * (passed * coupling)[:, None]
        noise = spread(seen) + unit * coupling
        return cls(moves, after.real / (np.abs(after) + noise), np.abs(moves / unit) ** 2)

    def plan(self, budget: float) -> Complex:
        """The moves (n,) of greatest total gain with Σ|move|² ≤ ``budget``, by Lagrange's multiplier."""
        low, high = 1e-6, 1e6
        unit = float(np.abs(self.moves).max() ** 2 / self.costs.max())
        for _ in range(26):
            price = sqrt(low * high)
            chosen = (self.gains - price * self.costs).argmax(axis=1)
            low, high = (price, high) if self.costs[chosen].sum() * unit > budget else (low, price)
        best: Complex = self.moves[(self.gains - high * self.costs).argmax(axis=1)]
        return best


def _tile_of(coefficients: Complex, profile: Profile) -> NDArray[np.floating]:
    rows, columns, _ = carriers(profile)
    grid = np.zeros((profile.tile, profile.tile), np.complex128)
    grid[rows, columns] = coefficients
    grid[-rows, -columns] = coefficients.conj()
    return np.fft.ifft2(grid).real


def _psnr(marked: Pixels, original: Pixels) -> float:
    error = float(np.mean((marked.astype(np.float32) - original) ** 2))
    return float("inf") if error == 0 else 10 * log10(255.0**2 / error)
