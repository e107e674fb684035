"""Where answers may be written: never over a file that is not theirs, never among the registry's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from w2w_registry.artifacts import TEMPORARY, write_atomic
from w2w_registry.errors import OutputExists, OutputInHome
from w2w_registry.services.registry import Registry


def check_outputs(registry: Registry, *paths: Path, force: bool = False) -> None:
    """Ask, before anything is done, whether these files may be written.

    Args:
        force: files that exist may be replaced.

    Raises:
        OutputInHome: a path inside the registry's home or artifact store (but not in a temporary folder of it), or its
            database, ``force`` or not.
        OutputExists: something is there already.
    """
    kept = [registry.settings.home, Path(registry.settings.artifacts_url.removeprefix("file://"))]
    database = Path(registry.settings.database_url.partition("sqlite:///")[2]).resolve()
    for path in paths:
        target = path.expanduser().resolve()
        if _is_temporary(registry, target):
            continue
        for folder in kept:
            if target.is_relative_to(folder.expanduser().resolve()):
                raise OutputInHome(path=str(path), home=str(folder))
        if database.is_file() and target.parent == database.parent and target.name.startswith(database.name):
            raise OutputInHome(path=str(path), home=str(database))
        check_free(path.expanduser(), force=force)


def _is_temporary(registry: Registry, target: Path) -> bool:
    """Whether it lies in a folder of this registry that goes again when its block ends."""
    under = registry.settings.temporary_dir.expanduser().resolve()
    return target.is_relative_to(under) and str(target.relative_to(under)).startswith(TEMPORARY)


def check_free(path: Path, *, force: bool = False) -> None:
    """Ask whether a file may be written.

    Raises:
        OutputExists: something is there already; or it is a device, a pipe or a socket, whatever ``force`` says: a file
            is written beside and takes its place, which would take ``/dev/null`` from the whole machine.
    """
    if _is_special(path):
        raise OutputExists(path=str(path), special=True)
    if not force and os.path.lexists(path):
        raise OutputExists(path=str(path), special=False)


def _is_special(path: Path) -> bool:
    try:
        if path.is_symlink() and os.readlink(path).startswith("/proc/"):  # /dev/stdout, whatever it goes to
            return True
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_outputs(registry: Registry, files: Mapping[Path, bytes], *, force: bool = False) -> None:
    """Write files a person asked for, each whole or not at all; one that already holds just that is left as it is.

    Raises:
        OutputInHome, OutputExists: see :func:`check_outputs`; nothing was written. StorageError.
    """
    changed = {path: data for path, data in files.items() if not holds(path, data)}
    check_outputs(registry, *changed, force=force)
    for path, data in changed.items():
        write_atomic(path, data)


def holds(path: Path, data: bytes) -> bool:
    """Whether the file is there and is just that."""
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False
