"""The numbers of a fit set on disk while a space is fitted: θ of every LoRA, read once, in memory never all at once.

Each file is read, checked and hashed on a thread while the one before is written. What was read is noted file by file,
so a fit that was interrupted goes on where it stopped. The folder lies among the home's temporary ones, which a
withdrawal and the next command sweep; a fit that ends takes it away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from w2w_registry.artifacts import TEMPORARY
from w2w_registry.errors import BadLora, Busy, RegistryError, storing
from w2w_registry.lora import Candidate, model_digest, read_lora
from w2w_registry.records import canonical_json
from w2w_registry.services.recording.placement import same_model_id
from w2w_registry.services.recording.workers import mapped
from w2w_registry.services.registry import Progress
from w2w_registry.space.layout import Layout

_NOTES = "read.jsonl"
_AHEAD = 8  # files read before the one that is written
_READERS = 2
_PIECE = 32  # files a worker of a cluster reads at a time


@dataclass(frozen=True)
class Noted:
    """One file as it was read: ``stamp`` tells whether it is still the same, ``row`` where its θ lies among those of
    its ``layout`` (digest)."""

    path: str
    stamp: str
    layout: str
    row: int
    model_digest: str
    sha256: str


@dataclass(frozen=True, eq=False)
class _Read:
    theta: NDArray[np.float32]
    layout: Layout
    model_digest: str
    sha256: str


class Spool:
    """θ of many files in a folder, one file of rows for each layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layouts: dict[str, Layout] = {}
        self._notes: dict[str, Noted] = {}
        self._remember()

    def read(
        self, candidates: Sequence[Candidate], base_model: str, progress: Progress, ray: str | None = None
    ) -> Iterator[tuple[Candidate, Noted | RegistryError]]:
        """Every candidate in order, with what was noted of it or why it cannot be used; read here, or on a Ray cluster
        whose machines see the same files under the same paths."""
        known = [self._known(candidate) for candidate in candidates]
        fresh = [one.path.absolute() for one, noted in zip(candidates, known, strict=True) if noted is None]
        reads = _here(fresh, base_model) if ray is None else _there(fresh, base_model, ray)
        for at, candidate in enumerate(candidates):
            found: Noted | RegistryError | None = known[at]
            if found is None:
                read = next(reads)
                found = read if isinstance(read, RegistryError) else self._write(candidate, read)
            yield candidate, found
            progress(at + 1, len(candidates))

    def rows(self, layout: str) -> NDArray[np.float32]:
        """θ (n, D) of all files of a layout, as a memory map that cannot be written."""
        dim = self.layouts[layout].dim
        return np.memmap(self._file(layout), "<f4", "r", shape=(self._count(layout), dim))

    def scratch(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A new float32 array on disk, gone when nobody holds it any more."""
        if not np.prod(shape):
            return np.zeros(shape, np.float32)
        path = self.folder / f"scratch.{uuid.uuid4().hex}"
        with storing(self.folder):
            os.close(_private(str(path), os.O_CREAT | os.O_RDWR))
            array: NDArray[np.float32] = np.memmap(path, "<f4", "r+", shape=shape)
            path.unlink()
        return array

    def _write(self, candidate: Candidate, read: _Read) -> Noted:
        layout = read.layout.digest
        row = self._count_written(layout, read.layout)
        noted = Noted(str(candidate.path), _stamp(candidate.path), layout, row, read.model_digest, read.sha256)
        with storing(self.folder):
            with open(self._file(layout), "r+b") as stream:
                stream.seek(row * 4 * read.layout.dim)
                stream.write(read.theta.astype("<f4", copy=False).tobytes())
            _append(self.folder / _NOTES, {"file": asdict(noted)})
            os.utime(self.folder)  # a sweep takes what nobody touches
        self._notes[noted.path] = noted
        return noted

    def _count_written(self, digest: str, layout: Layout) -> int:
        """Whole rows of a layout's file, which is made at its first row. A row cut short by a crash is written over."""
        if digest not in self.layouts:
            self._file(digest).touch(mode=0o600)
            _append(self.folder / _NOTES, {"layout": layout.to_json()})
            self.layouts[digest] = layout
        return self._count(digest)

    def _count(self, layout: str) -> int:
        return self._file(layout).stat().st_size // (4 * self.layouts[layout].dim)

    def _file(self, layout: str) -> Path:
        return self.folder / f"{layout[:32]}.f32"

    def _known(self, candidate: Candidate) -> Noted | None:
        noted = self._notes.get(str(candidate.path))
        if noted is None or noted.stamp != _stamp(candidate.path) or noted.row >= self._count(noted.layout):
            return None
        return noted

    def _remember(self) -> None:
        notes = self.folder / _NOTES
        for line in notes.read_text().splitlines() if notes.exists() else []:
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # cut short by a crash
            if "layout" in entry:
                layout = Layout.from_json(entry["layout"])
                self.layouts[layout.digest] = layout
            elif entry["file"]["layout"] in self.layouts:
                self._notes[entry["file"]["path"]] = Noted(**entry["file"])


@contextmanager
def spooled(under: Path, paths: Sequence[str], base_model: str) -> Iterator[Spool]:
    """The spool of these paths, the one an interrupted fit of them left if there is one; gone at the end, unless the
    fit is interrupted.

    Raises:
        StorageError: it cannot be made. Busy: another process is fitting these very paths.
    """
    named = canonical_json([sorted(os.path.abspath(path) for path in paths), base_model])
    key = hashlib.sha256(named.encode()).hexdigest()[:16]
    folder, lock = under / f"{TEMPORARY}fit-{key}", FileLock(under / f"fit-{key}.lock", mode=0o600)
    with storing(folder):
        under.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(what="fit of", name=", ".join(paths)) from None
    try:
        with storing(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            os.utime(folder)
            spool = Spool(folder)
        try:
            yield spool
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _here(paths: Sequence[Path], base_model: str) -> Iterator[_Read | RegistryError]:
    """What is read of each file, in order: some ahead, on threads."""
    ahead: deque[Future[_Read | RegistryError]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="lora-reader") as readers:
        for path in paths:
            ahead.append(readers.submit(_read_or_why, path, base_model))
            if len(ahead) == _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _there(paths: Sequence[Path], base_model: str, ray: str) -> Iterator[_Read | RegistryError]:
    pieces = [paths[start : start + _PIECE] for start in range(0, len(paths), _PIECE)]
    for piece in mapped(_Reading(base_model), pieces, ray):
        yield from piece


@dataclass(frozen=True)
class _Reading:
    """Reads a piece of the files, wherever it is asked to."""

    base_model: str

    def __call__(self, paths: Sequence[Path]) -> list[_Read | RegistryError]:
        return [_read_or_why(path, self.base_model) for path in paths]


def _read_or_why(path: Path, base_model: str) -> _Read | RegistryError:
    try:
        return _read(path, base_model)
    except RegistryError as error:
        return error


def _read(path: Path, base_model: str) -> _Read:
    lora = read_lora(path)
    if lora.base_model is not None and not same_model_id(lora.base_model, base_model):
        raise BadLora(path=str(path), reason=f"its base model is {lora.base_model}, not {base_model}")
    layout = lora.layout()
    theta = lora.theta()
    return _Read(theta, layout, model_digest(theta, layout), lora.sha256)


def _stamp(path: Path) -> str:
    """Size and time of a file, or of the files of a folder."""
    try:
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        return ";".join(f"{one.name}:{(info := one.stat()).st_size}:{info.st_mtime_ns}" for one in found)
    except OSError:
        return ""


def _append(path: Path, entry: dict[str, Any]) -> None:
    with open(path, "a", opener=_private) as stream:
        stream.write(canonical_json(entry) + "\n")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
