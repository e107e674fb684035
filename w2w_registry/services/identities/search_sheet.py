"""Contact sheets: of a search (the query's picture and those of its matches), of groups, and of a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import newest_previews, versions_named
from w2w_registry.catalog.resolve import version_for
from w2w_registry.diffusion.images import Tile, contact_sheet, wrapped_sheet
from w2w_registry.errors import BadFile, RegistryError, UsageError
from w2w_registry.files import PICTURE_LIMIT, read_bytes
from w2w_registry.pictures import picture
from w2w_registry.services.identities.previews import SIDE, read_preview, shrunk
from w2w_registry.services.recording.outputs import check_outputs, write_outputs
from w2w_registry.services.recording.pictures import Outgoing, prepare, record
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.found import Found, is_photo

COLUMNS = 8
MOST = 800
"""Pictures of a list's sheet."""


def write_sheet(registry: Registry, found: Found, path: str, *, force: bool = False) -> None:
    """A PNG with the query's picture (when it has one) and those of its matches, each with rank, name and score.

    Raises:
        OutputExists, OutputInHome: see ``check_outputs``. StorageError: the file cannot be written.
    """
    check_outputs(registry, Path(path), force=force)
    with registry.catalog.read() as session:
        versions = versions_named(session, [hit.identity for hit in found.results])
        known = {place: (version.id, version.preview_digest) for place, version in versions.items()}
        asked = _registered(session, found.query)
    shown = [] if asked is None else [asked[0]]
    tiles = [Tile(_query(registry, found.query, asked), ("query", Path(found.query).name))]
    for hit in found.results:
        version, digest = known.get((hit.identity, hit.version), (None, None))
        shown += [] if version is None else [version]
        same = hit.same_model is not None or bool(hit.same_identity)
        tiles.append(Tile(_open(_stored(registry, digest)), (hit.identity, f"{hit.rank}  {hit.score:.2f}"), same))
    shown = list(dict.fromkeys(shown))
    _leave(registry, wrapped_sheet(tiles), Path(path), "search", shown, force=force)


def _registered(session: Session, query: str) -> tuple[int, str | None] | None:
    """The version a query names, and its preview's digest."""
    try:
        version = version_for(session, query)
    except RegistryError:
        return None
    return version.id, version.preview_digest


def _query(registry: Registry, query: str, asked: tuple[int, str | None] | None) -> NDArray[np.uint8]:
    """The picture of what was asked: a registered version's preview, the photo itself, or what lies beside a file."""
    path = Path(query).expanduser()
    if asked is not None:
        return _open(_stored(registry, asked[1]))
    try:
        return _open(shrunk(read_bytes(path, limit=PICTURE_LIMIT)) if is_photo(query) else read_preview(path))
    except BadFile:
        return _open(None)


def write_list_sheet(registry: Registry, listed: Sequence[tuple[str, int]], path: str, *, force: bool = False) -> None:
    """A PNG with the pictures of these versions, (identity, number) each, in rows, with their names.

    Raises:
        UsageError: more than ``MOST``. OutputInHome, OutputExists, StorageError: the file cannot be written.
    """
    check_outputs(registry, Path(path), force=force)
    if len(listed) > MOST:
        raise UsageError(reason=f"a sheet holds at most {MOST} pictures, this list has {len(listed)}: say [[limit]]")
    with registry.catalog.read() as session:
        versions = versions_named(session, [name for name, _ in listed])
        known = {place: (version.id, version.preview_digest) for place, version in versions.items()}
    there = [(name, *known[name, number]) for name, number in listed if (name, number) in known]
    tiles = [Tile(_open(_stored(registry, digest)), (name,)) for name, _, digest in there]
    if not tiles:
        raise UsageError(reason="no identities match: there is nothing to draw")
    _leave(registry, wrapped_sheet(tiles), Path(path), "list", [version for _, version, _ in there], force=force)


def write_groups_sheet(registry: Registry, groups: Sequence[Sequence[str]], path: str, *, force: bool = False) -> None:
    """A PNG with a row for each group of identities: the picture of each one's newest version that has one.

    Raises:
        OutputInHome, OutputExists, StorageError: the file cannot be written.
    """
    check_outputs(registry, Path(path), force=force)
    with registry.catalog.read() as session:
        previews = newest_previews(session, [name for group in groups for name in group])
    digests = {name: digest for name, (_, digest) in previews.items()}
    width = min(max((len(group) for group in groups), default=1), COLUMNS)
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    tiles, labels = [], []
    for group in groups:
        for start in range(0, len(group), width):  # a large one goes on in the next row
            part = group[start : start + width]
            pictures = [_open(_stored(registry, digests.get(name))) for name in part]
            tiles.append(pictures + [blank] * (width - len(part)))
            labels.append(", ".join(part)[:40])
    if not tiles:
        tiles, labels = [[blank]], ["no two identities look like the same person"]
    shown = sorted(version for version, _ in previews.values())
    _leave(registry, contact_sheet(tiles, row_labels=labels), Path(path), "groups", shown, force=force)


def _leave(
    registry: Registry, sheet: NDArray[np.uint8], path: Path, operation: str, shown: Sequence[int], *, force: bool
) -> None:
    """Write a sheet of pictures of these versions, marked and on record."""
    leaving = Outgoing(sheet, {"ai_generated": True}, path.name, operation, tuple(shown), composite=True)
    ready = prepare(registry, [leaving])
    with registry.catalog.write(registry.actor) as uow:
        uow.event(f"{operation}.sheet", {"version": list(shown)}, **record(uow, ready))
    write_outputs(registry, {path: ready[0].data}, force=force)


def _stored(registry: Registry, digest: str | None) -> bytes | None:
    try:
        return None if digest is None else registry.artifacts.get(digest)
    except RegistryError:
        return None


def _open(data: bytes | None) -> NDArray[np.uint8]:
    """Pixels (h, w, 3); a grey square where there is no picture."""
    if data is None:
        return np.full((SIDE, SIDE, 3), 208, np.uint8)
    with picture(data, "preview") as image:
        return np.asarray(image.convert("RGB"), np.uint8)
