"""What writes the names on a sheet: people's names are in every script, and no machine has a font for each of them.

Pillow's own font writes English, and few of the letters that others have besides (not even ``é``); a font of this
machine writes the rest where it can, since it is drawn for the purpose; GNU Unifont, which comes along, writes every
other character of the Basic Multilingual Plane.  It is one small drawing a character: Arabic is joined where Pillow has
its shaping library, the signs of Indic scripts stand side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

UNIFONT: Final = Path(__file__).with_name("fonts") / "unifont.pcf.gz"
UNIFONT_SIZE: Final = 16
"""The only size its drawings have, in pixels."""

_MACHINES: Final = (
    *("NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "fonts-japanese-gothic.ttf"),
    *("Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "segoeui.ttf", "msgothic.ttc", "malgun.ttf"),
    *("simsun.ttc", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf"),
)


def font_for(text: str, size: int = 12) -> Any:
    """A Pillow font for a text: Pillow's own or one of this machine's that has every letter, or Unifont."""
    odd = "".join(sorted({c for c in text if not c.isascii() and not c.isspace()}))
    return _own(size) if can_write(_own(size), odd) else _of_the_machine(odd, size) or unifont()


def fitted(text: str, width: float = float("inf")) -> str:
    """As much of the beginning of a text as fits into ``width`` pixels, in one line.

    What parts lines or paragraphs (U+0085, U+2029) becomes a space: Pillow refuses to lay them out.
    """
    line = " ".join(text.split())
    font = font_for(line)
    if font.getlength(line) <= width:
        return line
    return line[: bisect_right(range(len(line)), width, key=lambda end: font.getlength(line[:end])) - 1]


def width_of(text: str) -> int:
    """How many pixels a text takes in one line."""
    return int(font_for(text).getlength(fitted(text)))


def can_write(font: Any, letters: str) -> bool:
    """Whether a font has a drawing of its own for each letter, not the box that stands for what is missing."""
    nothing = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(letter)) != nothing for letter in letters)


@lru_cache(maxsize=8)
def _own(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


@lru_cache(maxsize=256)
def _of_the_machine(letters: str, size: int) -> Any:
    from PIL import ImageFont

    for name in _MACHINES:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if can_write(font, letters):
            return font
    return None


@lru_cache(maxsize=1)
def unifont() -> Any:
    """GNU Unifont, as it comes along (``fonts/README.md``)."""
    from PIL import ImageFont

    return ImageFont.truetype(UNIFONT, UNIFONT_SIZE)
