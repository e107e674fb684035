"""Previews: the picture that comes with a LoRA, kept as a small PNG."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from w2w_registry.catalog.models import Identity
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadFile
from w2w_registry.files import PICTURE_LIMIT, first_there, read_bytes, read_text, those_there
from w2w_registry.pictures import end_missing, picture
from w2w_registry.records import Result
from w2w_registry.services.consent import gate
from w2w_registry.services.registry import Registry

SIDE = 256
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".jfif", ".bmp", ".tif", ".tiff")
_ENDINGS = (*(f"{kind}{ending}" for kind in (".preview", "", ".thumb") for ending in _PICTURES),)
_UNREAD = {
    **dict.fromkeys((".mp4", ".webm"), "a video"),
    **dict.fromkeys((".heic", ".heif"), "a HEIC picture"),
    ".jxl": "a JPEG XL picture",
    ".svg": "an SVG picture",
}
_THUMBNAIL = "modelspec.thumbnail"
_DATA = re.compile(r"data:image/[\w.+-]+;base64,")


def preview_files(lora: Path) -> Iterator[Path]:
    """The pictures people put beside a LoRA, the one they mean first: ``preview.png`` in its folder (or the first that
    training drew there, ``image_0.png``), or files of its name (``x.preview.png``, ``x.png``, ``x.jpg``…) beside it."""
    if lora.is_dir():
        return those_there(lora, (f"{n}{ending}" for n in ("preview", lora.name, "image_0") for ending in _PICTURES))
    return those_there(lora.parent, (lora.stem + written for ending in _ENDINGS for written in _written(ending)))


@cache
def _written(ending: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((ending, _capital(ending), ending.upper())))


def _capital(ending: str) -> str:
    stem, dot, kind = ending.rpartition(".")
    return stem + dot + kind.upper()


def unread_beside(lora: Path) -> tuple[Path, str] | None:
    """What a LoRA has for a preview that is not read, where there is such a file, and what it is: the video that
    download sites give, a picture of a kind that Pillow has no decoder of."""
    if lora.is_dir():
        return None
    endings = (written for kind in (".preview", "") for ending in _UNREAD for written in _written(kind + ending))
    file = first_there(lora.parent, (lora.stem + ending for ending in endings))
    return None if file is None else (file, _UNREAD[file.suffix.lower()])


def read_preview(lora: Path, metadata: Mapping[str, str] | None = None) -> bytes | None:
    """PNG bytes of the picture beside a LoRA, or of the one in its file's ``metadata`` or in SwarmUI's beside, at most
    256 pixels a side and without metadata of its own; None when there is none that can be read."""
    for file in preview_files(lora):
        with suppress(BadFile):  # a preview is a convenience: a broken one does not keep the LoRA out
            if no_picture(file) is None:
                return shrunk(read_bytes(file, limit=PICTURE_LIMIT))
    try:
        text = (metadata or {}).get(_THUMBNAIL, "") or swarm_table(lora).get(_THUMBNAIL, "")
        within = _DATA.match(text) if isinstance(text, str) else None
        if within is None or len(within.string) > PICTURE_LIMIT:
            return None
        return shrunk(base64.b64decode(within.string[within.end() :], validate=True))
    except (BadFile, ValueError):
        return None


def no_picture(file: Path) -> str | None:
    """Why a file beside a LoRA cannot be its preview; None where it can.

    The formats that nearly all previews have are not decoded for it: a PNG has checksums, a JPEG or a WebP an end that
    half a download has not. A file that did not change is not looked at again, as a plan and what is then done ask.
    """
    try:
        info = os.stat(file)
    except OSError:
        return "it cannot be read"
    return _wrong(file, info.st_ino, info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=1 << 14)
def _wrong(file: Path, *_version: int) -> str | None:
    try:
        data = read_bytes(file, limit=PICTURE_LIMIT)
        with picture(data, "picture", BadFile) as image:
            if end_missing(data):
                return "a picture whose end is missing"
            if image.format == "PNG":
                image.verify()
            elif image.format not in ("JPEG", "WEBP"):
                image.load()
    except BadFile as error:
        reason = str(error.fields["reason"])
        return "a damaged picture" if reason.startswith("damaged") else reason
    return None


def swarm_table(lora: Path) -> dict[str, Any]:
    """What SwarmUI keeps beside a LoRA (``x.swarm.json``): names and values as a header's metadata; empty where there
    is none."""
    file = None if lora.is_dir() else first_there(lora.parent, (f"{lora.stem}.swarm.json",))
    try:
        value = {} if file is None else json.loads(read_text(file))
    except (BadFile, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def shrunk(data: bytes) -> bytes:
    """A picture as a preview: PNG, at most 256 pixels a side, without metadata.

    Raises:
        BadFile: not a picture that can be read.
    """
    with picture(data, "picture", BadFile) as image:
        small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


def set_preview(registry: Registry, ref: str, picture: Path) -> PreviewSet:
    """Let a picture be the preview of a version; what was its preview before is kept by nobody (``gc`` sweeps it).

    Raises:
        NotFound: no such version. BadFile: not a picture. ConsentDenied: its subjects do not allow keeping it.
    """
    try:
        small = shrunk(read_bytes(picture, limit=PICTURE_LIMIT))
    except BadFile as error:
        raise BadFile(path=str(picture), reason=error.fields["reason"]) from None
    return keep_preview(registry, ref, small)


@dataclass(frozen=True, eq=False)
class PreviewSet(Result):
    """The preview a version has now."""

    version: str
    preview: str
    changed: bool


def keep_preview(registry: Registry, ref: str, png: bytes) -> PreviewSet:
    """Make ``png``, as :func:`shrunk` gives it, a version's preview."""
    with registry.catalog.read() as session:
        version_id = version_for(session, ref).id
    gate.require(registry, Use.REGISTER, versions=[version_id])
    digest = registry.artifacts.put(png)
    with registry.catalog.write(registry.actor) as uow:
        gate.require(registry, Use.REGISTER, versions=[version_id], session=uow.session)
        version = version_for(uow.session, ref)
        changed = version.preview_digest != digest
        if changed:
            version.preview_digest = digest
            uow.event("preview.set", {"version": version.id}, preview=digest)
        name = uow.session.get_one(Identity, version.identity_id).name
        return PreviewSet(version=f"{name}@{version.number}", preview=digest, changed=changed)
