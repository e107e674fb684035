"""Previews: the picture that comes with a LoRA, kept as a small PNG, and contact sheets of search results."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog.models import Identity, Version
from w2w_registry.diffusion.images import contact_sheet
from w2w_registry.errors import RegistryError, StorageError
from w2w_registry.services.registry import Registry
from w2w_registry.services.search import Found

SIDE = 256
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
        with Image.open(file) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
        return None  # a preview is a convenience: a broken one does not keep the LoRA out
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


def write_sheet(registry: Registry, found: Found, path: str) -> None:
    """A PNG with the query's picture (when it has one) and those of its matches, each with rank, name and score.

    Raises:
        StorageError: the file cannot be written.
    """
    from PIL import Image

    query = _open(read_preview(Path(found.query).expanduser()))
    with registry.catalog.read() as session:
        names = [hit.identity for hit in found.results]
        rows = session.execute(
            select(Identity.name, Version.number, Version.preview_digest)
            .join(Version, Version.identity_id == Identity.id)
            .where(Identity.name.in_(names))
        )
        digests = {(name, number): digest for name, number, digest in rows}
    tiles, labels = [query], ["query"]
    for hit in found.results:
        digest = digests.get((hit.identity, hit.version))
        tiles.append(_open(_stored(registry, digest)))
        labels.append(f"{hit.rank} {hit.identity} {hit.score:.2f}")
    out = io.BytesIO()
    Image.fromarray(contact_sheet([tiles], column_labels=labels)).save(out, "PNG")
    try:
        write_atomic(Path(path), out.getvalue())
    except OSError as error:
        raise StorageError(path=path, reason=error.strerror or str(error)) from None


def _stored(registry: Registry, digest: str | None) -> bytes | None:
    try:
        return None if digest is None else registry.artifacts.get(digest)
    except RegistryError:
        return None


def _open(data: bytes | None) -> NDArray[np.uint8]:
    """Pixels (h, w, 3); a grey square where there is no picture."""
    from PIL import Image

    if data is None:
        return np.full((SIDE, SIDE, 3), 208, np.uint8)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)
