"""The pictures that came with models, as they leave: in the browser, and with a release.

A preview is kept as it came. When one is to leave for the first time it is marked, signed and put on record as every
picture is; the finished file is kept in ``pictures/`` of the home folder, so that it leaves the same from then on. What
is kept there can be made again, and goes with any erasure.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from w2w_registry.artifacts import write_atomic
from w2w_registry.errors import DatabaseError, StorageError, Unmarked, storage_error
from w2w_registry.pictures import picture
from w2w_registry.services.recording import pictures, policies
from w2w_registry.services.recording.pictures import Outgoing
from w2w_registry.services.registry import Registry

OPERATION = "preview"


def leaving_preview(registry: Registry, version_id: int, digest: str) -> bytes:
    """The preview of a version as a marked PNG, on record; as it came when the policy turns marking off.

    Args:
        digest: SHA-256 of the preview as it is kept.

    Raises:
        NotFound, IntegrityError: the preview is gone or damaged. MissingExtra: c2pa-python is not installed.
        SettingError: unusable keys. Unmarked: the keys or the record cannot be written. Where only the folder of
        finished pictures cannot be, it leaves all the same, and is marked and recorded anew each time.
    """
    left = left_before(registry, version_id, digest)
    if left is not None:
        return left
    # Nobody knows whether a photograph or a model's picture was put beside a model: it is said to be composed with
    # what models make, as a sheet of such pictures is.
    leaving = Outgoing(
        _pixels(registry.artifacts.get(digest)), {}, "preview.png", OPERATION, (version_id,), composite=True
    )
    try:
        ready = pictures.prepare(registry, [leaving])
        with registry.catalog.write(registry.actor) as uow:
            uow.event("version.preview", {"version": version_id}, **pictures.record(uow, ready))
    except StorageError as error:
        raise Unmarked(what="the folder of keys", reason=error.fields["reason"]) from error
    except DatabaseError as error:
        raise Unmarked(what="the catalog", reason=error.fields["reason"]) from error
    with suppress(StorageError):
        write_atomic(_path(registry, version_id, digest), ready[0].data)
    return ready[0].data


def left_before(registry: Registry, version_id: int, digest: str) -> bytes | None:
    """As :func:`leaving_preview` where nothing is to be put on record: it left before, or the policy turns marking off;
    None when it is to leave for the first time.

    Raises:
        NotFound, IntegrityError, StorageError.
    """
    with registry.catalog.read() as session:
        marking = bool(policies.in_force(registry, session, looking=True).get("marking", True))
    return kept_preview(registry, version_id, digest) if marking else registry.artifacts.get(digest)


def kept_preview(registry: Registry, version_id: int, digest: str) -> bytes | None:
    """The marked preview as it left before; None when it never did.

    Raises:
        StorageError: it cannot be read.
    """
    path = _path(registry, version_id, digest)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(path, error) from error


def _path(registry: Registry, version_id: int, digest: str) -> Path:
    return registry.settings.pictures_dir / digest[:2] / f"{digest}-{version_id}.png"


def _pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with picture(data, "preview") as image:
        return np.asarray(image.convert("RGB"), np.uint8)
