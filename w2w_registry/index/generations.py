"""The generations of an index in its folder: what a manifest lists, published by the one writer, opened by anyone.

    <folder>/CURRENT            name of the generation and the SHA-256 of its manifest
    <folder>/gen-<random>/      manifest.json (stamp, every segment's files with length and CRC-32) and, for segments
                                that have any, which of their rows are dead
    <folder>/seg-<random>/      a segment: the kind's own files
    <folder>/LOCK               held by the one writer; readers take no lock

Segments and generations are written aside, forced to disk, renamed into place and only then pointed at, so a crash at
any instant leaves the old state or the new one, and a reader sees a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from w2w_registry.errors import IntegrityError, storing
from w2w_registry.index.disk import describe, lock, read, sync_folder, verified, write
from w2w_registry.index.kinds import segments_of
from w2w_registry.index.protocol import Batch, Stamp, VectorIndex
from w2w_registry.index.segments import Segment, SegmentedIndex
from w2w_registry.records import canonical_json

FORMAT = 5
READABLE = (4, FORMAT)  # 4 had no short rows
POINTER, MANIFEST = "CURRENT", "manifest.json"


class Writer:
    """The one process that may write in a folder now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def holds(self, segments: Sequence[Segment]) -> bool:
        """Whether every one of those segments is kept here, as another save may have deleted some."""
        return bool(segments) and all(s.name and (self._folder / s.name).is_dir() for s in segments)

    def publish(
        self,
        kind: type[SegmentedIndex],
        stamp: Stamp,
        dim: int,
        segments: Sequence[Segment],
        fresh: Iterable[Batch],
        *,
        short: bool,
    ) -> bytes:
        """Point to a generation of those segments and one new one of the ``fresh`` rows, ``short`` where the kind has
        such; returns the pointer."""
        pointer = read(self._folder / POINTER)
        current = None if pointer is None else manifest_of(self._folder, pointer)
        kept = [] if current is None else [current[0].name, *(s["name"] for s in current[1]["segments"])]
        collect(self._folder, keep=kept)
        entries = [self._entry(segment, current) for segment in segments]
        rows = sum(segment.live for segment in segments)
        written = self._segment(kind, dim, fresh, short=short)
        if written is not None:
            entries.append(written)
            rows += written["rows"]
        temporary = self._folder / f"tmp-{uuid.uuid4().hex}"
        temporary.mkdir()
        for segment, entry in zip(segments, entries, strict=False):
            entry["dead"] = _write_dead(temporary, segment)
        manifest = canonical_json(
            {
                "format": FORMAT,
                "stamp": asdict(replace(stamp, kind=kind.kind, size=rows)),
                "dim": dim,
                "segments": entries,
            }
        ).encode()
        write(temporary / MANIFEST, manifest)
        generation = self._into_place(temporary, "gen-")
        pointer = _point(self._folder, generation, manifest)
        collect(self._folder, keep=[generation, *(entry["name"] for entry in entries)])
        return pointer

    def _segment(
        self, kind: type[SegmentedIndex], dim: int, fresh: Iterable[Batch], *, short: bool
    ) -> dict[str, Any] | None:
        """A segment of those rows in place, as the manifest describes it; None for no rows."""
        temporary = self._folder / f"tmp-{uuid.uuid4().hex}"
        temporary.mkdir()
        rows = kind.write(temporary, dim, fresh, short=short)
        if rows == 0:
            shutil.rmtree(temporary)
            return None
        files = describe(temporary)
        return {"name": self._into_place(temporary, "seg-"), "rows": rows, "files": files, "dead": None}

    def _entry(self, segment: Segment, current: tuple[Path, dict[str, Any]] | None) -> dict[str, Any]:
        """What the current manifest says of a segment that stays."""
        entries = [] if current is None else current[1]["segments"]
        found = next((dict(entry) for entry in entries if entry["name"] == segment.name), None)
        if found is None:
            raise IntegrityError(what="index segment", name=segment.name, expected="kept", found="gone")
        return found

    def _into_place(self, temporary: Path, prefix: str) -> str:
        sync_folder(temporary)
        final = self._folder / temporary.name.replace("tmp-", prefix)
        temporary.rename(final)
        sync_folder(self._folder)
        return final.name


@contextmanager
def writing(folder: Path, stamp: Stamp) -> Iterator[Writer | None]:
    """The right to write there; None when it is not our turn: another process writes, or has written a later state."""
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, wait=False) as held:
            yield Writer(folder) if held and not _is_newer(folder, stamp) else None


def manifest_of(folder: Path, pointer: bytes) -> tuple[Path, dict[str, Any]] | None:
    """The generation a pointer names and its manifest; None unless the manifest is the one that was pointed to."""
    name, _, digest = pointer.decode("utf-8", "replace").strip().partition(" ")
    if not name.startswith("gen-") or "/" in name or "\\" in name:
        return None
    raw = read(folder / name / MANIFEST)
    if raw is None or hashlib.sha256(raw).hexdigest() != digest:
        return None
    manifest = json.loads(raw)  # its digest is the one the pointer names, so it is what this package wrote
    return (folder / name, manifest) if manifest["format"] in READABLE else None


def load_generation(folder: Path, pointer: bytes) -> tuple[VectorIndex, Stamp] | None:
    found = manifest_of(folder, pointer)
    if found is None:
        return None
    generation, manifest = found
    stamp = Stamp(**manifest["stamp"])
    try:
        kind = segments_of(stamp.kind)
        segments = [_load_segment(kind, generation, entry, manifest["dim"]) for entry in manifest["segments"]]
    except (OSError, IntegrityError, KeyError):
        return None
    index = kind(manifest["dim"], segments)
    return (index, stamp) if index.size == stamp.size else None


def _load_segment(kind: type[SegmentedIndex], generation: Path, entry: dict[str, Any], dim: int) -> Segment:
    """Raises IntegrityError or OSError when a file is not as the manifest describes it."""
    folder = generation.parent / entry["name"]
    files, maps = {}, {}
    for name, described in entry["files"].items():
        files[name], maps[name] = verified(folder / name, described)
    vectors = "vectors.i8" if "vectors.i8" in files else "vectors.f32"
    unchecked = entry["files"][vectors]["crc32"] is None
    segment = kind.load(folder, files, dim, unchecked=unchecked)
    mapped = maps[vectors]
    if unchecked and mapped is not None:
        segment.rows.read_at_random(mapped)
    segment.name = entry["name"]
    if entry["dead"] is not None:
        bits, _ = verified(generation / f"{segment.name}.dead", entry["dead"])
        segment.dead = np.unpackbits(bits, count=len(segment.rows)).astype(bool)
    return segment


def _write_dead(folder: Path, segment: Segment) -> dict[str, Any] | None:
    if not segment.dead.any():
        return None
    data = np.packbits(segment.dead).tobytes()
    write(folder / f"{segment.name}.dead", data)
    return {"bytes": len(data), "crc32": zlib.crc32(data)}


def _point(folder: Path, name: str, manifest: bytes) -> bytes:
    temporary = folder / f"{POINTER}.tmp"
    pointer = f"{name} {hashlib.sha256(manifest).hexdigest()}\n".encode()
    write(temporary, pointer)
    os.replace(temporary, folder / POINTER)
    sync_folder(folder)
    return pointer


def _is_newer(folder: Path, stamp: Stamp) -> bool:
    """Whether the current generation checks out and holds a later state of the same catalog than ``stamp``."""
    pointer = read(folder / POINTER)
    manifest = None if pointer is None else manifest_of(folder, pointer)
    if pointer is None or manifest is None:
        return False
    kept = Stamp(**manifest[1]["stamp"])
    same = (kept.space_digest, kept.metric_digest) == (stamp.space_digest, stamp.metric_digest)
    return same and kept.seq > stamp.seq and load_generation(folder, pointer) is not None


def collect(folder: Path, *, keep: Iterable[str], must: bool = False) -> None:
    """Delete generations and segments other than ``keep`` and what a killed writer left; only the lock's holder may."""
    kept = set(keep)
    for path in folder.iterdir():
        if path.name.startswith(("gen-", "seg-", "tmp-")) and path.name not in kept:
            shutil.rmtree(path, ignore_errors=not must)
    (folder / f"{POINTER}.tmp").unlink(missing_ok=True)
