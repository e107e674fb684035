"""Large galleries, kept as they are compared: everybody's fingerprint on the model's directions, mapped from disk.

Reading half a million floats of a thousand people, learning from them and comparing takes half a second; of a hundred
thousand people it takes half a minute, for each search and each newcomer, and nearly all of it was done before. So a
large gallery is kept in the home folder, and what changed since is all that is read:

    galleries/<base and question>.npz             who is there, the model, and the log's head when it was true
    galleries/<base and question>-<random>.npy    their points (n, d) float32, mapped

It is a cache: a missing, broken or older one is made again. Only what is committed is kept. Erasing somebody learns
every gallery anew without them (``forget``); until that is done, searches are answered by the old model without their
rows, and keep nothing: ``erased`` holds the log's number from which on something may be kept.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.engine import WRITE
from w2w_registry.catalog.fingerprints import Asked, Listed
from w2w_registry.catalog.usage import head
from w2w_registry.catalog.vectors import event_hash_at
from w2w_registry.errors import BadFile, StorageError, storing
from w2w_registry.files import read_text
from w2w_registry.services.recording.subjects import people_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.people import learn_unspoilt
from w2w_registry.space.verdict import VerdictModel

LARGE: Final = 512
"""Registered versions from which on a gallery is kept."""
LEARNED_FROM: Final = 20_000
"""Fingerprints that the model is learned from where no repeats taught it; of more, as many evenly among them."""
GROWN: Final = 1.05
"""How much a gallery may grow before that model is learned again."""
AT_ONCE: Final = 10_000
FORMAT: Final = 3
_ERASED, _LOCK = "erased", "lock"

Calibrated = tuple[int, VerdictModel]
"""Id and model of what repeats taught."""
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Kept:
    """A gallery in whatever state its versions are. ``points`` (n, d) float32: row by row with ``listed``.
    ``learned``: how many were there when the model was learned, and ``learned_at``: the log's number then;
    ``calibration``: its row's id, 0 for none."""

    listed: Listed
    people: Int64
    points: NDArray[np.float32]
    model: VerdictModel
    calibration: int
    learned: int
    learned_at: int

    def outgrown(self, people: int) -> bool:
        """Whether so many are there that the model should be learned again, where no repeats taught it."""
        return not self.calibration and not self.learned / GROWN <= people <= self.learned * GROWN


def open_kept(registry: Registry, session: Session, asked: Asked, calibrated: Calibrated | None) -> Kept:
    """The gallery as the session sees it, from what is kept in the home folder and what came since; kept for the next.

    A model that was outgrown is learned again first, or later where ``registry.later`` takes such work.

    Args:
        calibrated: what repeats taught; None where nothing was.

    Raises:
        UsageError: too few people.
    """
    folder, name = registry.settings.galleries_dir, _name(asked)
    stamp = _stamp(session, calibrated)
    known = _read(folder, name)
    if known is not None and known[0] == stamp:
        found = known[1]
    else:
        before = known[1] if known is not None and _of_this_history(session, known[0]) else None
        found = _current(session, asked, calibrated, before, patient=registry.later is not None)
        if not session.connection().get_execution_options().get(WRITE, False):
            with suppress(StorageError):  # a home that cannot be written is searched all the same
                _keep(folder, name, stamp, found)
    if registry.later is not None and found.outgrown(len(found.listed.ids)):
        registry.later(("gallery", name), head(session)[0], lambda: _learn_again(registry, asked, calibrated))
    return found


def _learn_again(registry: Registry, asked: Asked, calibrated: Calibrated | None) -> None:
    with registry.catalog.read() as session, suppress(StorageError):
        found = _current(session, asked, calibrated, None)
        _keep(registry.settings.galleries_dir, _name(asked), _stamp(session, calibrated), found)


def forget(registry: Registry, session: Session, galleries: Sequence[tuple[Asked, Calibrated | None]]) -> None:
    """Learn every kept gallery anew, once somebody was erased: nothing that was learned from them stays. Of what is
    kept and not among ``galleries`` nothing stays at all.

    Raises:
        StorageError: something could not be taken away.
    """
    folder = registry.settings.galleries_dir
    with suppress(OSError):  # where nothing can be kept, nothing was
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not folder.is_dir():
        return
    with FileLock(folder / _LOCK, mode=0o600):
        kept = {path.stem for path in folder.glob("*.npz")}
        write_atomic(folder / _ERASED, str(head(session)[0]).encode(), mode=0o600)
        for asked, calibrated in galleries:
            if (name := _name(asked)) in kept and asked.versions >= LARGE:
                _write(folder, name, _stamp(session, calibrated), _current(session, asked, calibrated, None))
                kept.remove(name)
        with storing(folder):
            for name in kept:
                _drop(folder, name)


def _name(asked: Asked) -> str:
    return hashlib.sha256(f"{asked.base} {asked.question}".encode()).hexdigest()[:32]


def _stamp(session: Session, calibrated: Calibrated | None) -> str:
    seq, digest = head(session)
    return f"{FORMAT} {seq} {digest} {0 if calibrated is None else calibrated[0]}"


def _of_this_history(session: Session, stamp: str) -> bool:
    """Whether what is kept was true at an event of this log: another database may share the home folder, and its
    fingerprints may have the same ids."""
    _, seq, digest, _ = stamp.split()
    return event_hash_at(session, int(seq)) == digest


def _current(
    session: Session, asked: Asked, calibrated: Calibrated | None, known: Kept | None, *, patient: bool = False
) -> Kept:
    """From what is ``known`` and what came since. ``patient``: a model that was outgrown will do."""
    listed = stored.listed(session, asked.base, asked.question)
    people = people_of(session, listed.versions, listed.identities)
    calibration = 0 if calibrated is None else calibrated[0]
    if known is not None and (known.calibration != calibration or (known.outgrown(len(listed.ids)) and not patient)):
        known = None
    learned, learned_at = len(listed.ids), head(session)[0]
    if known is not None:
        model, learned, learned_at = known.model, known.learned, known.learned_at
    elif calibrated is not None:
        model = calibrated[1]
    else:
        every = np.unique(np.linspace(0, len(listed.ids) - 1, min(len(listed.ids), LEARNED_FROM)).astype(np.int64))
        matrix = np.concatenate(list(_matrices(session, listed.ids[every])))
        model = learn_unspoilt(matrix, people=people[every])
    points = np.zeros((len(listed.ids), len(model.directions)), np.float32)
    fresh = np.ones(len(listed.ids), bool)
    if known is not None and len(known.listed.ids):
        place = np.minimum(np.searchsorted(known.listed.ids, listed.ids), len(known.listed.ids) - 1)
        fresh = known.listed.ids[place] != listed.ids
        points[~fresh] = known.points[place[~fresh]]
    rows = np.flatnonzero(fresh)
    start = 0
    for matrix in _matrices(session, listed.ids[rows]):
        points[rows[start : start + len(matrix)]] = model.project(matrix)
        start += len(matrix)
    return Kept(listed, people, points, model, calibration, learned, learned_at)


def _matrices(session: Session, ids: Int64) -> Iterator[NDArray[np.float32]]:
    """Fingerprints (n, D) by their ids, in this order, many at a time."""
    for start in range(0, len(ids), AT_ONCE):
        yield stored.matrix_of(session, ids[start : start + AT_ONCE])


# -- on disk --------------------------------------------------------------------------------------------
def _read(folder: Path, name: str) -> tuple[str, Kept] | None:
    """The stamp and what is kept; None where nothing is, or nothing usable."""
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            arrays: dict[str, Any] = {key: file[key] for key in file.files}
        stamp, points = str(arrays.pop("stamp")), np.load(folder / str(arrays.pop("points")), mmap_mode="r")
        numbers = arrays.pop("kept_numbers")
        listed = Listed(*(arrays.pop(key) for key in ("ids", "versions", "identities", "states")))
        people = arrays.pop("people")
        model = VerdictModel.from_arrays(arrays)
    except (OSError, ValueError, KeyError, EOFError, TypeError):
        return None
    if points.shape != (len(listed.ids), len(model.directions)) or not stamp.startswith(f"{FORMAT} "):
        return None
    return stamp, Kept(listed, people, points, model, *(int(number) for number in numbers))


def _keep(folder: Path, name: str, stamp: str, kept: Kept) -> None:
    """Keep a gallery, unless somebody was erased since it was read, or since its model was learned.

    Raises:
        StorageError: it cannot be written, or somebody else is keeping one.
    """
    with storing(folder):  # the lock's timeout is an OSError too
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(folder / _LOCK, timeout=0, mode=0o600):
            erased = int(number) if (number := _text(folder / _ERASED)).isdigit() else 0
            if erased <= min(int(stamp.split()[1]), kept.learned_at):
                _write(folder, name, stamp, kept)


def _text(path: Path) -> str:
    try:
        return read_text(path, limit=100)
    except BadFile:
        return ""


def _write(folder: Path, name: str, stamp: str, kept: Kept) -> None:
    """The points first, then what names them; then those that nothing names any more go.

    Raises:
        StorageError.
    """
    points = f"{name}-{os.urandom(8).hex()}.npy"
    write_atomic(folder / points, _npy(np.ascontiguousarray(kept.points, "<f4")), mode=0o600)
    out = io.BytesIO()
    arrays: dict[str, Any] = {
        **kept.model.to_arrays(),
        "stamp": np.array(stamp),
        "points": np.array(points),
        "kept_numbers": np.array([kept.calibration, kept.learned, kept.learned_at]),
        "ids": kept.listed.ids,
        "versions": kept.listed.versions,
        "identities": kept.listed.identities,
        "states": kept.listed.states,
        "people": kept.people,
    }
    np.savez(out, **arrays)
    write_atomic(folder / f"{name}.npz", out.getvalue(), mode=0o600)
    for old in folder.glob(f"{name}-*.npy"):
        if old.name != points:
            old.unlink(missing_ok=True)


def _drop(folder: Path, name: str) -> None:
    for path in (folder / f"{name}.npz", *folder.glob(f"{name}-*.npy")):
        path.unlink(missing_ok=True)


def _npy(array: NDArray[np.float32]) -> Iterator[bytes]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    yield header.getvalue()
    for start in range(0, len(array), AT_ONCE):
        yield array[start : start + AT_ONCE].tobytes()
