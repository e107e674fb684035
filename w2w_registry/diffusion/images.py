"""Photos in, pictures out: decoding whatever people have, masks, contact sheets, marked PNGs.

A photo becomes an upright sRGB square of the model's size.  What can be made sense of is (rotation flags, CMYK,
palettes, transparency, 16-bit, animations, very large files), with a note where something was decided for the user;
the rest is one ``BadImage``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from w2w_registry.diffusion.lettering import fitted, font_for, width_of
from w2w_registry.errors import BadImage
from w2w_registry.files import read_bytes
from w2w_registry.pictures import SOURCE_TYPE, picture

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

Pixels = NDArray[np.uint8]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
MIN_SIDE: Final = 16
MAX_BYTES: Final = 500_000_000
STRIP: Final = 4_000_000
"""Pixels that are converted at once."""
ORIENTATION: Final = 0x0112
TURNS: Final = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF's orientation -> Pillow's transposition that sets it upright."""
METADATA_KEY: Final = "w2w-registry"


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo: square pixels (size, size, 3) uint8 sRGB, digest of the file, what was decided on the way."""

    pixels: Pixels
    sha256: str
    notes: tuple[str, ...] = ()


def find_photos(path: Path) -> list[Path]:
    """The photos directly in a folder, sorted by name; or the file itself.

    Raises:
        BadImage: no such file, or a folder without pictures.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadImage(path=str(path), reason="no such file or folder")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise BadImage(path=str(path), reason="the folder has no pictures", hint="looked for " + " ".join(SUFFIXES))
    return found


def load_photo(path: Path, size: int) -> Photo:
    """The photo at ``path`` as an upright square of ``size`` pixels: the largest centred square of it.

    Raises:
        BadImage: not a picture, damaged, or too small or too large to use.
    """
    from PIL import Image

    data = _read(path)
    square, _, notes = _open(path, data, size)
    pixels = np.asarray(square.resize((size, size), Image.Resampling.LANCZOS), np.uint8)
    if int(np.ptp(pixels, axis=(0, 1)).max()) < 4:
        notes = (*notes, "the picture is one flat colour: nothing can be recognised in it")
    return Photo(pixels, sha256(data).hexdigest(), notes)


def load_mask(path: Path, photo: Path, size: int) -> tuple[NDArray[np.float32], str]:
    """A mask (size, size) in [0, 1], white where the identity is, cropped as the photo is; and the file's digest.

    Raises:
        BadImage: not a picture, of another shape than the photo, or with (almost) nothing marked.
    """
    data = _read(path)
    marked, (width, height), _ = _open(path, data, size)
    _, (wide, high), _ = _open(photo, _read(photo), size)
    if not 0.97 < (width / height) / (wide / high) < 1.03:
        raise BadImage(
            path=str(path),
            reason=f"the mask is {width}×{height}, the photo {wide}×{high}",
            hint="make the mask from the photo itself, in the same shape",
        )
    from PIL import Image

    square = marked.convert("L").resize((size, size), Image.Resampling.BOX)
    mask = np.asarray(square, np.float32) / np.float32(255.0)
    check_mask(mask, str(path))
    return mask, sha256(data).hexdigest()


def check_mask(mask: NDArray[np.float32], where: str) -> None:
    """Raises BadImage when fewer than one pixel in 200 is marked."""
    share = float((mask > 0.5).mean())
    if share < 0.005:
        raise BadImage(
            path=where,
            reason="there is no face region under the mask" if share == 0 else f"the mask marks only {share:.2%}",
            hint="paint the identity white on black",
        )


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise BadImage(path=str(path), reason="is a folder, not a picture")
    data = read_bytes(path, BadImage, limit=MAX_BYTES)
    if not data:
        raise BadImage(path=str(path), reason="the file is empty")
    return data


def _open(path: Path, data: bytes, size: int) -> tuple[PilImage, tuple[int, int], tuple[str, ...]]:
    """The largest centred square of the first frame, upright, as RGB, and the (width, height) of the whole; reduced
    when it is much larger than needed."""
    from PIL.Image import Transpose

    notes: list[str] = []
    with picture(data, str(path)) as image:
        if min(image.size) < MIN_SIDE:
            raise BadImage(path=str(path), reason=f"{image.width}×{image.height} pixels are too few")
        if getattr(image, "is_animated", False):  # asking for the number of frames would read them all
            notes.append("animated: the first frame is used")
            image.seek(0)
        if image.format == "JPEG":
            image.draft("RGB", (4 * size, 4 * size))
        image.load()
        way = image.getexif().get(ORIENTATION, 1)
        square = _square_in_srgb(image, size, notes)
        if way in TURNS:
            square = square.transpose(Transpose(TURNS[way]))
        return square, image.size if way < 5 else image.size[::-1], tuple(dict.fromkeys(notes))


def _square_in_srgb(image: PilImage, size: int, notes: list[str]) -> PilImage:
    """Strip by strip where that is worth it, each reduced before the next is made: a file of 24 kB can hold 200
    million pixels, which take gigabytes as soon as all of them are converted at once."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    factor = side // (4 * size) if side > 8 * size else 1
    high = side if factor == 1 else factor * max(1, STRIP // (side * factor))
    strips = [
        (start, (left, top + start, left + side, top + min(side, start + high))) for start in range(0, side, high)
    ]
    white = _white(image, [box for _, box in strips])
    found = Image.new("RGB", (-(-side // factor),) * 2)
    for start, box in strips:
        found.paste(_to_srgb(image.crop(box), white, notes).reduce(factor), (0, start // factor))
    return found


def _is_deep(image: PilImage) -> bool:
    """Whether a pixel has one value of more than eight bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _white(image: PilImage, boxes: Sequence[tuple[int, int, int, int]]) -> float:
    """The value of white. Nothing in a file of deep values says it: the smallest usual range that holds every one."""
    if not _is_deep(image):
        return 255.0
    most = max(float(np.asarray(image.crop(box)).max()) for box in boxes)
    ranges = (65535.0,) if image.mode.startswith("I") else (1.0, 255.0, 65535.0)
    return next((r for r in ranges if most <= r), most)


def _to_srgb(image: PilImage, white: float, notes: list[str]) -> PilImage:
    from PIL import Image, ImageCms

    if _is_deep(image):
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("values that are not numbers")
        return Image.fromarray(np.clip(values / white * 255.0, 0, 255).astype(np.uint8), "L").convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if int(np.asarray(rgba.getchannel("A")).min()) < 255:
            notes.append("transparent parts are shown on grey")
        back = Image.new("RGBA", rgba.size, (128, 128, 128, 255))
        return Image.alpha_composite(back, rgba).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            changed = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if changed is not None:
                return changed
        except (ImageCms.PyCMSError, OSError):
            notes.append("the colour profile is damaged and was ignored")
    return image.convert("RGB")


# -- pictures out ------------------------------------------------------------------------------------
def png_bytes(pixels: Pixels, metadata: Mapping[str, Any], source: str = SOURCE_TYPE) -> bytes:
    """A PNG of (H, W, 3) uint8 that says what it is: ``metadata`` as JSON, and the mark of AI-made pictures as XMP.

    The mark is ``Iptc4xmpExt:DigitalSourceType`` = ``source``, which platforms and the EU AI Act's code of practice
    look for; the XMP packet stands in the ``XML:com.adobe.xmp`` iTXt chunk as its specification wants.
    """
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _xmp(metadata, source))
    info.add_itxt(METADATA_KEY, json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False))
    info.add_text("Software", "w2w-registry")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def open_picture(path: Path) -> tuple[bytes, Pixels, str]:
    """The bytes, the pixels (H, W, 3) as they lie in the file, and the MIME type of a picture.

    Raises:
        BadImage: not a picture, or far too large.
    """
    from PIL import Image

    data = _read(path)
    with picture(data, str(path)) as image:
        mime = Image.MIME.get(image.format or "", "")  # before a frame is converted, which has no format
        deep = _to_srgb(image, _white(image, [(0, 0, *image.size)]), []) if _is_deep(image) else image
        return data, np.asarray(deep.convert("RGB"), np.uint8), mime


def _xmp(metadata: Mapping[str, Any], source: str) -> str:
    about = quoteattr(json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:w2w="https://w2w-registry.invalid/ns/1.0/" '
        f'Iptc4xmpExt:DigitalSourceType="{source}" xmp:CreatorTool="w2w-registry" w2w:generation={about}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def contact_sheet(
    rows: Sequence[Sequence[Pixels]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    cell: int = 128,
    gap: int = 4,
) -> Pixels:
    """Pictures in a labelled grid, (H, W, 3) uint8 on white; small pictures are enlarged without smoothing."""
    from PIL import Image, ImageDraw

    columns = max((len(r) for r in rows), default=0)
    if not columns:
        raise ValueError("a contact sheet needs at least one picture")
    left = gap + (max((width_of(t) for t in row_labels), default=0) + gap if row_labels else 0)
    top = gap + (18 if column_labels else 0)
    sheet = Image.new("RGB", (left + columns * (cell + gap), top + len(rows) * (cell + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for x, text in enumerate(column_labels):
        pen.text((left + x * (cell + gap), 2), fitted(text, cell), fill="black", font=font_for(text))
    for y, row in enumerate(rows):
        if y < len(row_labels):
            at = (gap, top + y * (cell + gap) + cell // 2 - 6)
            pen.text(at, fitted(row_labels[y]), fill="black", font=font_for(row_labels[y]))
        for x, pixels in enumerate(row):
            sheet.paste(_in_cell(pixels, cell), (left + x * (cell + gap), top + y * (cell + gap)))
    return np.asarray(sheet, np.uint8)


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture of a sheet, (h, w, 3) uint8, what is written under it, a line each, and whether it has a frame."""

    pixels: Pixels
    lines: tuple[str, ...]
    framed: bool = False


def wrapped_sheet(tiles: Sequence[Tile], *, columns: int = 8, cell: int = 128, gap: int = 6) -> Pixels:
    """Tiles in rows of at most ``columns``, (H, W, 3) uint8 on white."""
    from PIL import Image, ImageDraw

    if not tiles:
        raise ValueError("a contact sheet needs at least one picture")
    line = 16
    wide, high = cell + gap, cell + gap + line * max(len(tile.lines) for tile in tiles)
    across = min(columns, len(tiles))
    sheet = Image.new("RGB", (gap + across * wide, gap + -(-len(tiles) // across) * high), "white")
    pen = ImageDraw.Draw(sheet)
    for i, tile in enumerate(tiles):
        x, y = gap + i % across * wide, gap + i // across * high
        sheet.paste(_in_cell(tile.pixels, cell), (x, y))
        if tile.framed:
            pen.rectangle((x - 3, y - 3, x + cell + 2, y + cell + 2), outline=(0, 128, 0), width=3)
        for n, text in enumerate(tile.lines):
            pen.text((x, y + cell + n * line), fitted(text, cell), fill="black", font=font_for(text))
    return np.asarray(sheet, np.uint8)


def _in_cell(pixels: Pixels, cell: int) -> Any:
    """A picture made to fit a cell; small ones are enlarged without smoothing."""
    from PIL import Image

    image = Image.fromarray(pixels)
    kind = Image.Resampling.NEAREST if max(image.size) <= cell else Image.Resampling.LANCZOS
    scale = cell / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), kind)
