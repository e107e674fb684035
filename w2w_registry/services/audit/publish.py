"""Publishing the log: tiles and the newest checkpoint in a folder that any static host serves (c2sp.org/tlog-tiles).

The folder holds hashes only, nothing of what happened; with it anybody who kept a checkpoint, or a proof of one event,
checks that history was not changed. What is there already is never overwritten with something else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2w_registry.artifacts import write_atomic
from w2w_registry.audit import checkpoint as signing
from w2w_registry.audit import tiles
from w2w_registry.audit.checks import leaf_of
from w2w_registry.audit.merkle import Frontier
from w2w_registry.catalog import events as log
from w2w_registry.errors import BadFile, IntegrityError, storing
from w2w_registry.files import read_text
from w2w_registry.records import Result
from w2w_registry.services.audit.log import checkpoint, read_notes
from w2w_registry.services.registry import Registry

_NOTE_LIMIT = 1 << 20


@dataclass(frozen=True, eq=False)
class Published(Result):
    """A log as published: how many of its files were written, and how many were there."""

    path: str
    origin: str
    size: int
    root: str
    note: str
    public_key: str
    cosigned_by: list[str]
    written: int
    unchanged: int


def publish(registry: Registry, out: Path, *, cosigned: Sequence[Path] = ()) -> Published:
    """Sign a checkpoint if anything happened since the last, and write the log up to it into the folder ``out``.

    Args:
        cosigned: copies of this checkpoint that witnesses have added their lines to.

    Raises:
        IntegrityError: the log does not verify, or the folder holds another history; nothing is written then.
        StorageError: the folder cannot be written. BadFile: a copy cannot be read.
    """
    made = checkpoint(registry)
    newest = signing.verify(made["note"], bytes.fromhex(made["public_key"]))
    note = signing.joined(made["note"], read_notes(cosigned))
    there = _there(out)
    written = kept = 0
    with registry.catalog.read() as session:
        leaves = [leaf_of(text) for text in log.event_hashes(session, until=newest.size)]
    if there is not None:
        note = _follows(out, there, note, newest, leaves, bytes.fromhex(made["public_key"]))
    for path, content in tiles.files(leaves):
        if _put(out, path, content):
            written += 1
        else:
            kept += 1
    for folder in _outgrown(out):
        shutil.rmtree(folder, ignore_errors=True)
    write_atomic(out / tiles.CHECKPOINT, note.encode())
    return Published(
        path=str(out),
        origin=newest.origin,
        size=newest.size,
        root=newest.root.hex(),
        note=note,
        public_key=made["public_key"],
        cosigned_by=[line.name for line in signing.split(note)[1] if line.name != newest.origin],
        written=written,
        unchanged=kept,
    )


def _there(out: Path) -> str | None:
    """The checkpoint that the folder holds already."""
    try:
        return read_text(out / tiles.CHECKPOINT, limit=_NOTE_LIMIT)
    except BadFile:
        if (out / tiles.CHECKPOINT).exists():
            raise
        return None


def _follows(
    out: Path, there: str, note: str, newest: signing.Checkpoint, leaves: Sequence[bytes], public: bytes
) -> str:
    """``note`` with the cosignatures that the folder has for it. What was published must be where this log began."""
    old = signing.verify(there, public)
    frontier = Frontier()
    for leaf in leaves[: old.size]:
        frontier.append(leaf)
    if old.origin != newest.origin or old.size > newest.size or frontier.root() != old.root:
        raise IntegrityError(
            what="published log",
            name=str(out),
            expected=f"{old.size} events with root {old.root.hex()[:16]}",
            found=f"{newest.size} events of another history",
        )
    return signing.joined(note, [there]) if signing.split(there)[0] == signing.split(note)[0] else note


def _put(out: Path, path: str, content: bytes) -> bool:
    """Write a file that is not there yet; False when it is."""
    target = out / path
    with storing(target):
        if target.exists():
            if target.read_bytes() == content:
                return False
            raise IntegrityError(what="published tile", name=path, expected="what the log says", found="something else")
        write_atomic(target, content)
    return True


def _outgrown(out: Path) -> Iterator[Path]:
    """Folders of tiles that were not full, and are now."""
    for folder in sorted((out / "tile").rglob("*.p")):
        if folder.with_suffix("").is_file():
            yield folder
