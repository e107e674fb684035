"""Previews: the picture that comes with a LoRA, kept as a small PNG."""

from __future__ import annotations

import io
from pathlib import Path

from w2w_registry.errors import BadFile
from w2w_registry.files import PICTURE_LIMIT, read_bytes

SIDE = 256
_FORMATS = ("PNG", "JPEG", "WEBP")
_ENDINGS = (".preview.png", ".png", ".jpg", ".jpeg", ".webp")


def preview_file(lora: Path) -> Path | None:
    """The picture people put beside a LoRA: ``preview.png`` in its folder, or a file of its name (``x.preview.png``,
    ``x.png``, ``x.jpg``…) beside the file."""
    if lora.is_dir():
        candidates = [lora / f"preview{ending}" for ending in (".png", ".jpg", ".jpeg", ".webp")]
    else:
        candidates = [lora.with_name(lora.stem + ending) for ending in _ENDINGS]
    return next((c for c in candidates if c.is_file()), None)


def read_preview(lora: Path) -> bytes | None:
    """PNG bytes of the picture beside a LoRA, at most 256 pixels a side and without metadata; None when there is none
    that can be read."""
    file = preview_file(lora)
    if file is None:
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        data = read_bytes(file, limit=PICTURE_LIMIT)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE))
    except (BadFile, OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
        return None  # a preview is a convenience: a broken one does not keep the LoRA out
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()
