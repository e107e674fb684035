"""Was this picture made by a model of a w2w-registry? Needs numpy and Pillow, nothing of the registry.

    python detect.py PICTURE…

Looks for the presence mark in the pixels, which survives compression, scaling to half and back or to twice the size,
cropping, quarter turns, mirroring and the loss of all metadata. What is printed beside each picture bounds the
probability that a picture without the mark looks like this one; below 1e-9 the mark is there. (Signed metadata, where
it is left, is read by c2patool or any C2PA reader.)

Exit status: 0 when every picture is marked, 1 when one is not, 2 for a file that is not a picture.
"""

import hashlib
import math
import sys

import numpy as np
from PIL import Image, UnidentifiedImageError

KEY = b"w2w-registry presence mark 1"
WINDOW, FLOOR, CLIP, ALARM = 15, 8.0, 3.0, 1e-9
# side of the tile, smallest radius and largest index of the band, share of its coefficients that say presence
TILES = ((128, 6.0, 30, 0.40), (64, 3.0, 15, 0.42), (32, 1.5, 10, 1.0))

WAYS = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]


def random(key, tile, count):
    stream = hashlib.shake_256(b"w2w-registry mark 1 %d " % tile + key).digest(4 * count)
    return np.frombuffer(stream, "<u4") / 2.0**32


def box(values):
    """Mean over a square of WINDOW pixels, edges repeated."""
    half = WINDOW // 2
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (half, half)
        x = np.moveaxis(np.pad(values, pad, mode="edge"), axis, 0)
        sums = sum(x[i : i + values.shape[axis]] for i in range(WINDOW))
        values = np.moveaxis(sums, 0, axis) / WINDOW
    return values


def flatten(luma):
    mean = box(luma)
    spread = np.sqrt(np.maximum(box(luma * luma) - mean * mean, 0.0)) + FLOOR
    return np.clip((luma - mean) / spread, -CLIP, CLIP) * np.sqrt(FLOOR / spread)


def fold(flat, tile):
    height, width = flat.shape
    down, across = -(-height // tile), -(-width // tile)
    padded = np.zeros((down * tile, across * tile))
    padded[:height, :width] = flat
    index = np.arange(tile)
    counts = ((height - index + tile - 1) // tile)[:, None] * ((width - index + tile - 1) // tile)[None]
    return padded.reshape(down, tile, across, tile).sum(axis=(0, 2)) / np.maximum(counts, 1)


def strongest(spectrum, tile, low, high, share, way):
    """The largest z of the presence mark over all shifts, the picture set upright from one way it may be turned."""
    index = np.fft.fftfreq(tile, 1 / tile).round().astype(int)
    y, x = np.meshgrid(index, index, indexing="ij")
    half = (x > 0) | ((x == 0) & (y > 0))
    rows, columns = np.nonzero(half & (np.maximum(abs(x), abs(y)) <= high) & (np.hypot(x, y) >= low))
    order = np.argsort(random(KEY + b" order", tile, rows.size), kind="stable")
    rows, columns, count = rows[order], columns[order], round(share * rows.size)
    y, x = index[rows], index[columns]
    quarters, mirrored = way
    x = -x if mirrored else x
    for _ in range(quarters):  # the spectrum of a turned picture is its own with the axes changed, but for a shift
        y, x = x, -y
    values = spectrum[y, x]
    size = np.abs(values)
    weights = size / (size + 0.25 * np.median(size) + 1e-20)
    units = values / (size + 0.25 * np.median(size) + 1e-20)
    grid = np.zeros((tile, tile), complex)
    grid[rows[:count], columns[:count]] = units[:count] * np.exp(-2j * np.pi * random(KEY, tile, count))
    norm = math.sqrt(float((weights[:count] ** 2).sum()) + 1e-30)
    return float(np.fft.ifft2(grid).real.max()) * tile**2 * math.sqrt(2) / norm


def false_alarm(pixels):
    """Bound on the probability that (H, W, 3) uint8 without the mark looks like this: P(z > t) ≤ M exp(−t²/2)."""
    side = min(pixels.shape[:2])
    if side < 16:
        return 1.0
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    height, width = (size // 2 * 2 for size in luma.shape)
    halved = luma[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    z = 0.0
    for seen in (luma, halved) if side >= 32 else (luma,):
        flat = flatten(seen)
        for tile, *band in TILES:
            if tile <= 2 * min(seen.shape):
                spectrum = np.fft.fft2(fold(flat, tile))
                z = max(z, *(strongest(spectrum, tile, *band, way) for way in WAYS))
    tried = 2 * len(WAYS) * sum(tile**2 for tile, *_ in TILES)
    return math.exp(min(0.0, math.log(tried) - z * z / 2))


def read(path):
    """(H, W, 3) uint8 of the first frame of a picture."""
    with Image.open(path) as image:
        if image.mode.startswith("I"):  # grey of 16 bits
            return np.repeat((np.asarray(image, np.int64) // 257).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def main(paths):
    if not paths:
        print(__doc__)
        return 2
    status = 0
    for path in paths:
        try:
            pixels = read(path)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"{path}: no picture ({error})", file=sys.stderr)
            return 2
        alarm = false_alarm(pixels)
        marked = alarm <= ALARM
        print(f"{path}: {'marked: made by a model' if marked else 'no mark found'} (false alarm at most {alarm:.1e})")
        status = max(status, int(not marked))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
