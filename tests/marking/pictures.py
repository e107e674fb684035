"""Pictures to mark (procedural photographs, drawings, faces) and what happens to them (compression, scaling, crops).

Seeds below ``HELD`` are for tuning, those from it on for reporting.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
HELD: Final = 1000


def noise(rng: np.random.Generator, side: int, fall: float) -> NDArray[np.float64]:
    """(side, side) of unit deviation whose amplitude falls as frequency^-fall, as that of natural scenes does."""
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    radius[0, 0] = 1.0
    spectrum = (rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)) * radius**-fall
    values = np.fft.irfft2(spectrum, (side, side))
    return (values - values.mean()) / values.std()


def texture(rng: np.random.Generator, side: int) -> Pixels:
    """Clouds, stone, foliage: one random field in three tints."""
    field = noise(rng, side, rng.uniform(1.0, 1.6))
    bands = [
        field * rng.uniform(20, 50) + noise(rng, side, 1.3) * rng.uniform(0, 15) + rng.uniform(70, 180)
        for _ in range(3)
    ]
    return np.clip(np.stack(bands, axis=-1), 0, 255).astype(np.uint8)


def scene(rng: np.random.Generator, side: int) -> Pixels:
    """Dead leaves: shapes of all sizes that hide one another, the usual model of a photograph's edges; with grain."""
    image = Image.new("RGB", (2 * side, 2 * side))
    pen = ImageDraw.Draw(image)
    for _ in range(1200):
        r = 2 * side * min(0.35, 0.01 * (rng.pareto(1.2) + 0.3))
        x, y = rng.uniform(0, 2 * side, 2)
        colour = _colour(rng, 10, 245)
        if rng.random() < 0.5:
            tall = rng.uniform(0.4, 1.0)
            pen.ellipse([x - r, y - r * tall, x + r, y + r * tall], fill=colour)
        else:
            turn = rng.uniform(0, 2 * np.pi)
            pen.polygon([(x + r * np.cos(turn + t), y + r * np.sin(turn + t)) for t in (0, 1.8, 3.3, 4.7)], fill=colour)
    small = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), np.float64)
    return np.clip(small + noise(rng, side, 0.8)[..., None] * rng.uniform(2, 8), 0, 255).astype(np.uint8)


def drawing(rng: np.random.Generator, side: int) -> Pixels:
    """Lines and flat shapes on flat paper."""
    image = Image.new("RGB", (2 * side, 2 * side), (255, 255, 255) if rng.random() < 0.6 else _colour(rng, 180, 256))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 60))):
        points = [(float(x), float(y)) for x, y in rng.uniform(0, 2 * side, (int(rng.integers(2, 6)), 2))]
        kind, colour = rng.random(), _colour(rng, 0, 255)
        if kind < 0.5:
            pen.line(points, fill=colour, width=int(rng.integers(1, 10)))
        elif kind < 0.75:
            pen.polygon(points, fill=colour)
        else:
            (x, y), r = points[0], rng.uniform(5, side / 2)
            fill = colour if rng.random() < 0.5 else None
            pen.ellipse([x - r, y - r, x + r, y + r], fill=fill, outline=(0, 0, 0), width=4)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def face(rng: np.random.Generator, side: int) -> Pixels:
    """A face of the mini world, enlarged: smooth skin, flat background."""
    from examples.miniworld.render import render
    from examples.miniworld.world import sample_attributes, sample_nuisances

    seed = int(rng.integers(2**31))
    small = render(sample_attributes(1, seed), sample_nuisances(1, seed))[0]
    how = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(small).resize((side, side), how))


MAKERS: Final[Mapping[str, Callable[[np.random.Generator, int], Pixels]]] = {
    "texture": texture,
    "scene": scene,
    "drawing": drawing,
    "face": face,
}


def corpus(side: int, each: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    """(kind, picture), ``each`` of every kind."""
    for kind, make in MAKERS.items():
        for number in range(each):
            yield kind, make(np.random.default_rng([seed, number, side]), side)


def photographs(folder: Path | None, side: int, each: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    """(kind, picture): crops at random places and scales of the photographs in a folder; without one, of the two that
    scikit-learn brings."""
    if folder is None:
        import sklearn

        folder = Path(sklearn.__file__).parent / "datasets" / "images"
    rng = np.random.default_rng([seed, side])
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        with Image.open(path) as opened:
            whole = opened.convert("RGB")
        for _ in range(each):
            scale = rng.uniform(side, max(min(whole.size), side)) / min(whole.size)
            size = tuple(max(side, round(s * scale)) for s in whole.size)
            scaled = whole.resize((size[0], size[1]), Image.Resampling.LANCZOS)
            left, top = (int(rng.integers(0, s - side + 1)) for s in scaled.size)
            yield "photograph", np.asarray(scaled.crop((left, top, left + side, top + side)))


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(low, high, 3))
    return red, green, blue


# -- what happens to pictures ------------------------------------------------------------------------
def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    def attack(pixels: Pixels) -> Pixels:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=quality)
        return np.asarray(Image.open(out).convert("RGB"))

    return attack


def halved(pixels: Pixels) -> Pixels:
    """Scaled to half and back."""
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def cropped(pixels: Pixels) -> Pixels:
    """A tenth of height and width cut off, unevenly."""
    height, width = pixels.shape[:2]
    top, left = int(height * 0.07), int(width * 0.03)
    return pixels[top : top + int(height * 0.9), left : left + int(width * 0.9)]


def brighter(factor: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)


def doubled(how: Image.Resampling) -> Callable[[Pixels], Pixels]:
    """A screenshot of a screen that shows each pixel as four, cut out by hand and sent as JPEG 90."""

    def attack(pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        large = np.asarray(Image.fromarray(pixels).resize((2 * width, 2 * height), how))
        return jpeg(90)(large[1:, 1:])

    return attack


ATTACKS: Final[Mapping[str, Callable[[Pixels], Pixels]]] = {
    "PNG": lambda pixels: pixels,
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "JPEG 50": jpeg(50),
    "×0.5 and back": halved,
    "×2, cut out, JPEG 90": doubled(Image.Resampling.BILINEAR),
    "10% crop": cropped,
    "brightness +10%": brighter(1.1),
    "brightness −10%": brighter(0.9),
}
