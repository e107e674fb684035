"""The renderer: attributes and nuisances in, 32x32 RGB photos out; the same numbers always give the same pixels.

Every part of a face is a signed distance (in pixels, negative inside) over the whole batch; its coverage is the
distance clipped over one pixel, which is all the anti-aliasing needed.  Parts are painted back to front.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.world import ATTRIBUTES, CONTINUOUS, NUISANCES, Array

SIZE: Final = 32
_GRID: Final = (np.arange(SIZE, dtype=np.float32) + 0.5) - SIZE / 2


def _mix(low: Array, high: Array, t: Array) -> Array:
    return low + (high - low) * t


def _rgb(red: float, green: float, blue: float) -> Array:
    return np.array([red, green, blue], dtype=np.float32)


def hsv(hue: Array, saturation: Array | float, value: Array) -> Array:
    """(N,) hue in turns and (N,) value to (N, 3) RGB in [0, 1]."""
    offsets = np.array([5.0, 3.0, 1.0], dtype=np.float32)
    k = (offsets + 6.0 * hue[:, None]) % 6.0
    chroma = np.broadcast_to(np.asarray(saturation, dtype=np.float32), hue.shape)[:, None]
    fall = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return (value[:, None] * (1.0 - chroma * fall)).astype(np.float32)


def _col(values: Array) -> Array:
    return values[:, None, None]


def _ellipse(x: Array, y: Array, rx: Array | float, ry: Array | float) -> Array:
    """Distance to an axis-aligned ellipse, first order (exact on the axes to what a pixel can show)."""
    q = np.sqrt((x / rx) ** 2 + (y / ry) ** 2 + 1e-6)
    slope = np.sqrt((x / rx**2) ** 2 + (y / ry**2) ** 2 + 1e-6)
    return (q - 1.0) * q / slope


def _box(x: Array, y: Array, half_w: Array | float, half_h: Array | float) -> Array:
    dx, dy = np.abs(x) - half_w, np.abs(y) - half_h
    outside = np.sqrt(np.maximum(dx, 0.0) ** 2 + np.maximum(dy, 0.0) ** 2)
    return outside + np.minimum(np.maximum(dx, dy), 0.0)


def _paint(image: Array, distance: Array, colour: Array, opacity: float = 1.0) -> Array:
    """Paint ``colour`` (3,) or (N, 3) where ``distance`` (N, H, W) is inside."""
    cover = (np.clip(0.5 - distance, 0.0, 1.0) * opacity)[..., None]
    paint = colour if colour.ndim == 1 else colour[:, None, None, :]
    return image + (paint - image) * cover


def render(attributes: Array, nuisances: Array) -> NDArray[np.uint8]:
    """(N, attributes) and (N, nuisances) to photos (N, 32, 32, 3), uint8."""
    parts = [_render(attributes[i : i + 512], nuisances[i : i + 512]) for i in range(0, len(attributes), 512)]
    return np.concatenate(parts) if parts else np.zeros((0, SIZE, SIZE, 3), np.uint8)


def _render(attributes: Array, nuisances: Array) -> NDArray[np.uint8]:
    a = {name: attributes[:, i] for i, name in enumerate(ATTRIBUTES)}
    n = {name: nuisances[:, i] for i, name in enumerate(NUISANCES)}
    has = {name: _col(a[name]) for name in ATTRIBUTES[len(CONTINUOUS) :]}
    none = np.float32(1e3)

    # Photo coordinates to face coordinates: shift, roll, scale.
    roll = _col(np.deg2rad(6.0 * n["roll"]).astype(np.float32))
    zoom = _col(1.0 + 0.06 * n["scale"])
    px = (_GRID[None, None, :] - _col(1.2 * n["shift_x"])) / zoom
    py = (_GRID[None, :, None] - _col(1.0 * n["shift_y"])) / zoom
    x = np.cos(roll) * px + np.sin(roll) * py
    y = -np.sin(roll) * px + np.cos(roll) * py
    # Turning the head moves what is in front against the outline.
    fx = x - _col(0.8 * n["turn"])

    background = hsv((n["background_hue"] + 1.0) / 2.0, 0.25, 0.72 + 0.2 * n["background_light"])
    image = np.broadcast_to(background[:, None, None, :], (len(attributes), SIZE, SIZE, 3)).astype(np.float32)

    skin = _mix(_rgb(0.36, 0.21, 0.14), _rgb(1.0, 0.85, 0.74), a["skin"][:, None])
    hair_value = _mix(np.float32(0.25), np.float32(0.95), a["hair_light"])
    # Half a turn of hues, orange through pink and purple to blue: not a full circle, so that "more" has a meaning.
    hair = hsv((0.08 - 0.5 * a["hair_hue"]) % 1.0, 0.8, hair_value)
    hair_dark = hair * np.float32(0.55)

    width = _col(_mix(np.float32(7.6), np.float32(11.0), a["face_width"]))
    chin = _col(_mix(np.float32(9.6), np.float32(13.4), a["face_length"]))
    crown = np.float32(-11.0)

    # Hair behind the face: a cap over the crown and two locks that fall as far as the hair is long.
    cap = _ellipse(x, y + 2.5, width + 2.2, np.float32(11.8))
    cap = np.maximum(cap, y - 0.0)
    end = _col(_mix(np.float32(-1.0), np.float32(15.5), a["hair_length"]))
    top = np.float32(-3.0)
    locks = _box(np.abs(x) - (width + 0.3), y - (top + end) / 2, np.float32(2.0), (end - top) / 2)
    image = _paint(image, np.minimum(cap, locks), hair)

    # Neck and face: the lower half of the outline is as long as the chin says.
    image = _paint(image, _box(x, y - 14.0, np.float32(4.0), np.float32(6.0)), skin * np.float32(0.85))
    outline = np.where(y > 0, _ellipse(x, y, width, chin), _ellipse(x, y, width, -crown))
    image = _paint(image, outline, skin)

    # Beard: the jaw below the nose, open around the mouth.
    mouth_y = 0.62 * chin
    jaw = np.maximum(outline, (mouth_y - 2.6) - y)
    gap = _ellipse(fx, y - mouth_y, np.float32(5.8), np.float32(1.9))
    image = _paint(image, np.where(has["beard"] > 0.5, np.maximum(jaw, -gap), none), hair_dark)

    # Fringe over the forehead, unless a hat covers it.
    fringe = np.maximum(outline - 1.0, y + 7.6 + 0.04 * x**2)
    image = _paint(image, fringe, hair)

    eye_x = _col(_mix(np.float32(2.9), np.float32(5.6), a["eye_gap"]))
    eye_r = _col(_mix(np.float32(1.15), np.float32(2.5), a["eye_size"]))
    side = np.abs(fx) - eye_x
    eye_y = y + 1.6
    image = _paint(image, _ellipse(side, eye_y, eye_r * 1.1, eye_r), _rgb(0.97, 0.97, 0.97))
    image = _paint(image, _ellipse(side, eye_y, eye_r * 0.58, eye_r * 0.58), _rgb(0.05, 0.05, 0.08))

    tilt = _col(_mix(np.float32(-0.42), np.float32(0.42), a["brow_tilt"]))
    thick = _col(_mix(np.float32(0.3), np.float32(1.15), a["brow_thickness"]))
    # Outer end up for "angry", down for "sad"; the middle stays where it is.
    brow_y = y + 5.4 + tilt * side
    image = _paint(image, _box(side, brow_y, np.float32(2.4), thick), hair_dark)

    nose_r = _col(_mix(np.float32(0.7), np.float32(2.3), a["nose_size"]))
    nose = _ellipse(fx, y - 2.2, nose_r * 1.15, nose_r * 0.95)
    image = _paint(image, nose, skin * _rgb(0.72, 0.62, 0.6))

    mouth_w = _col(_mix(np.float32(2.0), np.float32(5.2), a["mouth_width"]))
    curve = _col(_mix(np.float32(-1.9), np.float32(1.9), a["mouth_curve"]))
    bend = (y - mouth_y) + curve * ((fx / mouth_w) ** 2 - 0.5) * np.minimum(mouth_w / 3.4, 1.2)
    mouth = _box(fx, np.clip(bend, -6.0, 6.0), mouth_w, np.float32(0.75))
    image = _paint(image, mouth, _rgb(0.72, 0.1, 0.16))

    # Glasses: two rings around the eyes, a bridge and temples.
    ring_r = eye_r * 0.35 + 2.25
    ring = np.abs(_ellipse(side, eye_y, ring_r, ring_r)) - 0.5
    bridge = _box(fx, eye_y, np.maximum(eye_x - ring_r, 0.1), np.float32(0.45))
    frame = np.minimum(ring, bridge)
    image = _paint(image, np.where(has["glasses"] > 0.5, frame, none), _rgb(0.04, 0.1, 0.12))

    earring = _ellipse(np.abs(x) - (width + 0.2), y - 4.6, np.float32(1.5), np.float32(1.5))
    image = _paint(image, np.where(has["earrings"] > 0.5, earring, none), _rgb(1.0, 0.86, 0.1))

    crown_box = _box(x, y + 12.6, width * 0.92, np.float32(4.2))
    brim = _box(x, y + 8.4, width + 2.6, np.float32(1.0))
    image = _paint(image, np.where(has["hat"] > 0.5, crown_box, none), _rgb(0.1, 0.42, 0.3))
    image = _paint(image, np.where(has["hat"] > 0.5, brim, none), _rgb(0.05, 0.26, 0.18))

    gain = _col(1.0 + 0.1 * n["light"]) + _col(0.1 * n["light_side"]) * (_GRID[None, None, :] / (SIZE / 2))
    image = np.clip(image * gain[..., None], 0.0, 1.0)
    return np.rint(image * 255.0).astype(np.uint8)
