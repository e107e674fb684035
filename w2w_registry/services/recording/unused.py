"""``gc``: what nothing needs any more, found and swept: files in the artifact store that nothing in the catalog refers
to, and how far trainings got that nobody went on with."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from w2w_registry.catalog.artifact_refs import referred
from w2w_registry.errors import StorageError, UsageError
from w2w_registry.records import Result
from w2w_registry.services.registry import Progress, Registry, no_progress

GRACE = 3600.0
"""Seconds a new file is left alone: a command stores its files before the transaction that refers to them."""


ABANDONED: Final = 30 * 86400.0
"""Seconds after which a training that was stopped is taken to be given up."""


@dataclass(frozen=True, eq=False)
class Swept(Result):
    """What nothing refers to (SHA-256 of each), its size in bytes, and how many files too young to judge were left.
    ``performed``: whether it was deleted; ``recorded``: whether the log says so, which a full disk may leave no room
    for. ``trainings``: states of trainings that were stopped and not gone on with for thirty days (names of files in
    the home's ``training``); ``unfinished``: how many of younger ones were left."""

    unused: tuple[str, ...]
    size: int
    young: int
    performed: bool
    recorded: bool = True
    trainings: tuple[str, ...] = ()
    unfinished: int = 0


def gc(
    registry: Registry, *, perform: bool, alone: bool = False, grace: float = GRACE, progress: Progress = no_progress
) -> Swept:
    """Mark what the catalog refers to, and delete the rest.

    Marking and sweeping hold the catalog's write lock, so that no command records a reference meanwhile; a crash
    half-way leaves a part unswept, which the next run finds. Where the disk is too full for that, files are deleted
    one by one, the largest first and each only if it is still old, until there is room for the lock and the event.

    Args:
        perform: delete; else only say what would be.
        alone: no other registry keeps files in this store; taken for granted of a store in the home folder.
        grace: seconds; younger files are left alone.

    Raises:
        UsageError: the store is elsewhere, and may hold files of other registries. Busy: another process is writing.
        StorageError: a file cannot be deleted, or the database's disk is full and the files are not on this machine.
    """
    if perform and not alone and Path(registry.settings.artifacts_url) != registry.settings.home / "artifacts":
        raise UsageError(
            reason=f"{registry.settings.artifacts_url} may hold files of other registries, which would be deleted too",
            hint="add [[yes]] if this registry alone uses it",
        )
    trainings, unfinished = _abandoned(registry)
    if perform:
        for name in trainings:
            (registry.settings.training_dir / name).unlink(missing_ok=True)
    swept = _sweep_store(registry, perform, grace, progress)
    return replace(swept, trainings=trainings, unfinished=unfinished)


def _abandoned(registry: Registry) -> tuple[tuple[str, ...], int]:
    """States of trainings that were given up, by name, and how many others there are."""
    folder = registry.settings.training_dir
    ages: dict[str, float] = {}
    for file in (one for one in folder.glob("*.safetensors") if not one.is_dir()):
        with suppress(FileNotFoundError):  # a training that has just come to its end
            ages[file.name] = time.time() - file.lstat().st_mtime
    old = tuple(sorted(name for name, age in ages.items() if age > ABANDONED))
    return old, len(ages) - len(old)


def _sweep_store(registry: Registry, perform: bool, grace: float, progress: Progress) -> Swept:
    if not perform:
        with registry.catalog.read() as session:
            found = _found(registry, referred(session), grace)
        return Swept(found.unused, sum(found.sizes.values()), found.young, False)
    gone: dict[str, int] = {}
    try:
        return _swept(registry, gone, grace, progress)
    except StorageError as error:
        if not registry.artifacts.is_local:
            raise
        with registry.catalog.read() as session:
            found = _found(registry, referred(session), grace)
        full = error
    for digest in sorted(found.unused, key=lambda one: found.sizes[one], reverse=True):
        facts = registry.artifacts.facts(digest)
        if facts is None or facts.age < grace:
            continue  # somebody stored it again
        registry.artifacts.remove(digest)
        gone[digest] = facts.size
        try:
            return _swept(registry, gone, grace, progress)
        except StorageError as error:
            full = error
    if not gone and found.unused:
        raise full
    return Swept(tuple(gone), sum(gone.values()), found.young, True, recorded=not gone)


def _swept(registry: Registry, gone: dict[str, int], grace: float, progress: Progress) -> Swept:
    """Sweep with the catalog's write lock held. ``gone``: size by digest of what is deleted already, and what is now.

    Raises:
        StorageError: there is no room for the lock or the event.
    """
    with registry.catalog.write(registry.actor) as uow:
        found = _found(registry, referred(uow.session), grace)
        for number, digest in enumerate(found.unused, start=1):
            registry.artifacts.remove(digest)
            gone[digest] = found.sizes[digest]
            progress(number, len(found.unused))
        size = sum(gone.values())
        if gone:
            uow.event("artifact.gc", {}, files=len(gone), bytes=size)
    return Swept(tuple(gone), size, found.young, True)


@dataclass(frozen=True, eq=False)
class _Found:
    """Size by digest of what nothing refers to, and how many are too young to judge."""

    sizes: dict[str, int]
    young: int

    @property
    def unused(self) -> tuple[str, ...]:
        return tuple(self.sizes)


def _found(registry: Registry, used: set[str], grace: float) -> _Found:
    sizes: dict[str, int] = {}
    young = 0
    for digest in registry.artifacts.digests():
        if digest in used:
            continue
        found = registry.artifacts.facts(digest)
        if found is None:
            continue  # gone since
        if found.age < grace:
            young += 1
        else:
            sizes[digest] = found.size
    return _Found(sizes, young)
