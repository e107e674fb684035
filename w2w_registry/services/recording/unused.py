"""``gc``: files in the artifact store that nothing in the catalog refers to: found, and swept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from w2w_registry.catalog.artifact_refs import referred
from w2w_registry.errors import UsageError
from w2w_registry.records import Result
from w2w_registry.services.registry import Progress, Registry, no_progress

GRACE = 3600.0
"""Seconds a new file is left alone: a command stores its files before the transaction that refers to them."""


@dataclass(frozen=True, eq=False)
class Swept(Result):
    """What nothing refers to (SHA-256 of each), its size in bytes, and how many files too young to judge were left.
    ``performed``: whether it was deleted."""

    unused: tuple[str, ...]
    size: int
    young: int
    performed: bool


def gc(
    registry: Registry, *, perform: bool, alone: bool = False, grace: float = GRACE, progress: Progress = no_progress
) -> Swept:
    """Mark what the catalog refers to, and delete the rest.

    Marking and sweeping hold the catalog's write lock, so that no command records a reference meanwhile; a crash
    half-way leaves a part unswept, which the next run finds.

    Args:
        perform: delete; else only say what would be.
        alone: no other registry keeps files in this store; taken for granted of a store in the home folder.
        grace: seconds; younger files are left alone.

    Raises:
        UsageError: the store is elsewhere, and may hold files of other registries. Busy: another process is writing.
        StorageError: a file cannot be deleted.
    """
    if perform and not alone and Path(registry.settings.artifacts_url) != registry.settings.home / "artifacts":
        raise UsageError(
            reason=f"{registry.settings.artifacts_url} may hold files of other registries, which would be deleted too",
            hint="add [[yes]] if this registry alone uses it",
        )
    if not perform:
        with registry.catalog.read() as session:
            return _found(registry, referred(session), grace)
    with registry.catalog.write(registry.actor) as uow:
        found = _found(registry, referred(uow.session), grace)
        for number, digest in enumerate(found.unused, start=1):
            registry.artifacts.remove(digest)
            progress(number, len(found.unused))
        if found.unused:
            uow.event("artifact.gc", {}, files=len(found.unused), bytes=found.size)
    return Swept(found.unused, found.size, found.young, True)


def _found(registry: Registry, used: set[str], grace: float) -> Swept:
    unused: list[str] = []
    size = young = 0
    for digest in registry.artifacts.digests():
        if digest in used:
            continue
        found = registry.artifacts.facts(digest)
        if found is None:
            continue  # gone since
        if found.age < grace:
            young += 1
        else:
            unused.append(digest)
            size += found.size
    return Swept(tuple(unused), size, young, False)
