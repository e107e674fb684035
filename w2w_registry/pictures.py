"""The one way a picture is opened: of the formats people have, few enough pixels, and one error whatever is wrong.

Without a list of formats Pillow tries every decoder it has, and one of them hands files to Ghostscript.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from w2w_registry.errors import BadFile, BadImage

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Read by every Pillow; AVIF is where its library came with Pillow (11.3 and later)."""
_AVIF: Final = "install Pillow 11.3 or newer, or save it as PNG"
MAX_PIXELS: Final = 200_000_000
SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for "made by a trained model" (NewsCodes, digital source type)."""
COMPOSITE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""A sheet of pictures, some of which a trained model made."""


def readable(start: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats to try on a file that begins with ``start`` (64 bytes or more)."""
    if start[4:8] != b"ftyp" or not {start[i : i + 4] for i in range(8, 64, 4)} & {b"avif", b"avis"}:
        return FORMATS
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        return ()
    return ("AVIF",) if AvifImagePlugin.SUPPORTED else ()


def end_missing(data: bytes) -> bool:
    """Whether a picture's file stops before its end, as half a download does: by the mark or the length that PNG, JPEG
    and WebP have for it; of others nothing is known."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8\xff"):
        return data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")
    at = 2  # a JPEG's segments have their lengths, and its thumbnail, which has an end too, lies within one
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return b"\xff\xd9" not in data[at:]


@contextmanager
def picture(data: bytes, path: str, kind: type[BadFile] = BadImage, *, most: int = MAX_PIXELS) -> Iterator[PilImage]:
    """The first frame of a picture, not decoded yet; what decoding it in the block raises becomes the same error.

    Args:
        path: what the error calls it. most: pixels it may have.

    Raises:
        BadImage (or ``kind``): not a picture of ``FORMATS`` (or AVIF), damaged, or with more pixels than ``most``.
    """
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 and refuses at 179 megapixels; the limit here is one clear error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            formats = readable(data)
            if not formats:
                raise kind(path=path, reason="an AVIF picture, which this Pillow does not read", hint=_AVIF)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                if image.width * image.height > most:
                    reason = f"{image.width}×{image.height} pixels are too many"
                    raise kind(path=path, reason=reason, hint="scale it down")
                yield image
    except BadFile:
        raise
    except UnidentifiedImageError:
        raise kind(path=path, reason="not a picture, or of a kind that is not supported") from None
    except Image.DecompressionBombError:
        raise kind(path=path, reason="too many pixels", hint="scale it down") from None
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error) as error:
        # What Pillow's decoders raise on damaged files, by format.
        raise kind(path=path, reason=f"damaged picture ({error})") from None
