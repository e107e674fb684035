"""Large galleries, kept as they are compared: everybody's fingerprint on the model's directions, mapped from disk.

Reading half a million floats of a thousand people, learning from them and comparing takes half a second; of a hundred
thousand people it takes half a minute, for each search and each newcomer, and nearly all of it was done before. So a
large gallery is kept in the home folder, and what changed since is all that is read:

    galleries/<base and question>.npz             who is there, the model, and the log's head when it was true
    galleries/<base and question>-<random>.npy    their points (n, d) float32, mapped

It is a cache: a missing, broken or older one is made again. Only what is committed is kept, and erasing drops it all.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.engine import WRITE
from w2w_registry.catalog.fingerprints import Asked, Listed
from w2w_registry.catalog.usage import head
from w2w_registry.catalog.vectors import event_hash_at
from w2w_registry.errors import StorageError
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
FORMAT: Final = 2

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Kept:
    """A gallery in whatever state its versions are. ``points`` (n, d) float32: row by row with ``listed``.
    ``learned``: how many were there when the model was learned; ``calibration``: its row's id, 0 for none."""

    listed: Listed
    people: Int64
    points: NDArray[np.float32]
    model: VerdictModel
    calibration: int
    learned: int


def open_kept(registry: Registry, session: Session, asked: Asked, calibrated: tuple[int, VerdictModel] | None) -> Kept:
    """The gallery as the session sees it, from what is kept in the home folder and what came since; kept for the next.

    Args:
        calibrated: id and model of what repeats taught; None where nothing was.

    Raises:
        UsageError: too few people.
    """
    folder = registry.settings.galleries_dir
    name = hashlib.sha256(f"{asked.base} {asked.question}".encode()).hexdigest()[:32]
    seq, digest = head(session)
    stamp = f"{FORMAT} {seq} {digest} {0 if calibrated is None else calibrated[0]}"
    known = _read(folder, name)
    if known is not None and known[0] == stamp:
        return known[1]
    ours = known is not None and _of_this_history(session, known[0])
    found = _current(session, asked, calibrated, known[1] if ours and known is not None else None)
    if not session.connection().get_execution_options().get(WRITE, False):
        with suppress(StorageError):  # a home that cannot be written is searched all the same
            _write(folder, name, stamp, found)
            if registry.catalog.last_change() != seq:  # it may hold somebody erased meanwhile, whose files are gone
                _drop(folder, name)
    return found


def _of_this_history(session: Session, stamp: str) -> bool:
    """Whether what is kept was true at an event of this log: another database may share the home folder, and its
    fingerprints may have the same ids."""
    _, seq, digest, _ = stamp.split()
    return event_hash_at(session, int(seq)) == digest


def _current(session: Session, asked: Asked, calibrated: tuple[int, VerdictModel] | None, known: Kept | None) -> Kept:
    listed = stored.listed(session, asked.base, asked.question)
    people = people_of(session, listed.versions, listed.identities)
    calibration = 0 if calibrated is None else calibrated[0]
    if known is not None and (known.calibration != calibration or (not calibration and _outgrown(known, listed))):
        known = None
    if known is not None:
        model, learned = known.model, known.learned
    elif calibrated is not None:
        model, learned = calibrated[1], len(listed.ids)
    else:
        every = np.unique(np.linspace(0, len(listed.ids) - 1, min(len(listed.ids), LEARNED_FROM)).astype(np.int64))
        matrix = np.concatenate(list(_matrices(session, listed.ids[every])))
        model, learned = learn_unspoilt(matrix, people=people[every]), len(listed.ids)
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
    return Kept(listed, people, points, model, calibration, learned)


def _outgrown(known: Kept, listed: Listed) -> bool:
    return not known.learned / GROWN <= len(listed.ids) <= known.learned * GROWN


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
    return stamp, Kept(listed, people, points, model, int(numbers[0]), int(numbers[1]))


def _write(folder: Path, name: str, stamp: str, kept: Kept) -> None:
    """The points first, then what names them; then those that nothing names any more go.

    Raises:
        StorageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(path=str(folder), reason=error.strerror or "cannot be made") from None
    points = f"{name}-{os.urandom(8).hex()}.npy"
    write_atomic(folder / points, _npy(np.ascontiguousarray(kept.points, "<f4")), mode=0o600)
    out = io.BytesIO()
    arrays: dict[str, Any] = {
        **kept.model.to_arrays(),
        "stamp": np.array(stamp),
        "points": np.array(points),
        "kept_numbers": np.array([kept.calibration, kept.learned]),
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
