"""Contact sheets of search results: the query's picture and those of its matches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.identities import newest_previews, versions_named
from w2w_registry.diffusion.images import contact_sheet
from w2w_registry.errors import RegistryError
from w2w_registry.pictures import picture
from w2w_registry.services.identities.previews import SIDE, read_preview
from w2w_registry.services.recording.outputs import check_outputs, write_outputs
from w2w_registry.services.recording.pictures import Outgoing, prepare, record
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.found import Found


def write_sheet(registry: Registry, found: Found, path: str, *, force: bool = False) -> None:
    """A PNG with the query's picture (when it has one) and those of its matches, each with rank, name and score.

    Raises:
        OutputExists, OutputInHome: see ``check_outputs``. StorageError: the file cannot be written.
    """
    check_outputs(registry, Path(path), force=force)
    query = _open(read_preview(Path(found.query).expanduser()))
    with registry.catalog.read() as session:
        versions = versions_named(session, [hit.identity for hit in found.results])
        known = {place: (version.id, version.preview_digest) for place, version in versions.items()}
    tiles, labels, shown = [query], ["query"], []
    for hit in found.results:
        version, digest = known.get((hit.identity, hit.version), (None, None))
        shown += [] if version is None else [version]
        tiles.append(_open(_stored(registry, digest)))
        labels.append(f"{hit.rank} {hit.identity} {hit.score:.2f}")
    _leave(registry, contact_sheet([tiles], column_labels=labels), Path(path), "search", shown, force=force)


def write_groups_sheet(registry: Registry, groups: Sequence[Sequence[str]], path: str, *, force: bool = False) -> None:
    """A PNG with a row for each group of identities: the picture of each one's newest version that has one.

    Raises:
        OutputInHome, OutputExists, StorageError: the file cannot be written.
    """
    check_outputs(registry, Path(path), force=force)
    with registry.catalog.read() as session:
        previews = newest_previews(session, [name for group in groups for name in group])
    digests = {name: digest for name, (_, digest) in previews.items()}
    width = max((len(group) for group in groups), default=1)
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    tiles = [
        [_open(_stored(registry, digests.get(name))) for name in group] + [blank] * (width - len(group))
        for group in groups
    ] or [[blank]]
    labels = [", ".join(group)[:40] for group in groups] or ["no two identities look like the same person"]
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
