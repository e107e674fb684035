"""Moving registered versions from one weight space to another: refit, update, or a newer fit of the same people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.models import Coordinates, Space, Version
from w2w_registry.catalog.points import Placed, placed_versions
from w2w_registry.catalog.resolve import space_for
from w2w_registry.catalog.vectors import pack
from w2w_registry.errors import RegistryError, UsageError
from w2w_registry.lora import read_lora
from w2w_registry.records import Result, counted, keyed
from w2w_registry.services.consent.door import Door
from w2w_registry.services.recording.placement import place
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.mapping import Mapping, mapping, moved

_CHUNK = 500


@dataclass(frozen=True)
class Moved:
    """How many versions were placed by their files, and by mapping their coordinates; the losses of the mapped (median
    and largest; None without any); and refs of those that somebody who refused keeps out."""

    by_file: int
    mapped: int
    typical_loss: float | None
    largest_loss: float | None
    refused: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "placed": self.by_file + self.mapped,
            "by_file": self.by_file,
            "mapped": self.mapped,
            "mapping_loss": self.typical_loss,
            "mapping_loss_largest": self.largest_loss,
            "refused": len(self.refused),
        }


@dataclass(frozen=True, eq=False)
class SpaceMigrated(Result):
    """How many versions were to be placed in the other space, how they were (:class:`Moved`; None in a dry run), and
    what to know about it."""

    source: str = field(metadata=keyed("from"))
    target: str = field(metadata=keyed("to"))
    to_place: int
    dry_run: bool
    placed: int | None = None
    by_file: int | None = None
    mapped: int | None = None
    mapping_loss: float | None = None
    mapping_loss_largest: float | None = None
    refused: int | None = None
    warnings: tuple[str, ...] = ()


def migrate_space(
    registry: Registry,
    source: str,
    target: str,
    *,
    files: bool = True,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> SpaceMigrated:
    """Give every active version of space ``source`` coordinates in space ``target``, where it has none yet.

    Args:
        files: read the versions' stored LoRAs where there are any, which is exact; else their coordinates are mapped,
            and what that loses is told.
        dry_run: only say how many there are.

    Raises:
        UsageError: one space, spaces of different base models, or of different LoRAs. NotFound.
    """
    with registry.catalog.read() as session:
        old, new = space_for(session, source), space_for(session, target)
        waiting = len(placed_versions(session, old.id, lacking=new.id))
    if old.id == new.id:
        raise UsageError(reason=f"{old.ref} is one space", hint="name the space to move to")
    if old.base_model != new.base_model:
        raise UsageError(reason=f"{old.ref} is of {old.base_model}, {new.ref} of {new.base_model}")
    if dry_run:
        return SpaceMigrated(old.ref, new.ref, waiting, dry_run)
    found = move(registry, old, new, files=files, progress=progress)
    said = f"{counted(len(found.refused), 'version')} left out: too near somebody who refused"
    warnings = (said,) if found.refused else ()
    return SpaceMigrated(old.ref, new.ref, waiting, dry_run, **found.to_json(), warnings=warnings)


def move(registry: Registry, old: Space, new: Space, *, files: bool = True, progress: Progress = no_progress) -> Moved:
    """As :func:`migrate_space`, without its checks; chunk by chunk, each a transaction, so that it can be repeated."""
    source, target = load_space(registry.artifacts, old), load_space(registry.artifacts, new)
    between = mapping(source, target)
    with registry.catalog.read() as session:
        wanted = placed_versions(session, old.id, lacking=new.id)
    by_file = 0
    losses: list[NDArray[np.float64]] = []
    refused: list[int] = []
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        points, exact, lost = _points(registry, chunk, source, target, old.ref, between, files=files)
        out = _record(registry, new, chunk, points)
        refused += sorted(out)
        stays = np.array([version.id not in out for version, _ in chunk])
        by_file += int((exact & stays).sum())
        losses.append(lost[~exact & stays])
        progress(min(start + _CHUNK, len(wanted)), len(wanted))
    mapped = np.concatenate(losses) if losses else np.zeros(0)
    typical, largest = (float(np.median(mapped)), float(mapped.max())) if len(mapped) else (None, None)
    return Moved(by_file, len(mapped), typical, largest, tuple(refused))


def _points(
    registry: Registry,
    chunk: Sequence[Placed],
    source: WeightSpace,
    target: WeightSpace,
    ref: str,
    between: Mapping | None,
    *,
    files: bool,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Coordinates (n, k') in the target; which come from files (n,); what the others lose (n,)."""
    old_points = np.stack([point for _, point in chunk])
    points, lost = between.points(old_points) if between is not None else moved(source, target, old_points)
    exact = np.zeros(len(chunk), bool)
    for row, (version, _) in enumerate(chunk):
        theta = theta_of(registry, version, target, ref) if files else None
        if theta is not None:
            points[row], exact[row] = target.project(theta), True
    return points, exact, lost


def _record(registry: Registry, new: Space, chunk: Sequence[Placed], points: NDArray[np.float32]) -> set[int]:
    """Add the coordinates of those that may be moved, in one transaction; the ids of those that may not."""
    with registry.catalog.write(registry.actor) as uow:
        refused = set(Door(registry, uow.session).encounters([version.id for version, _ in chunk]))
        rows = []
        for (version, _), point in zip(chunk, points, strict=True):
            if version.id not in refused:
                blob, digest = pack(point)
                row = {"space_id": new.id, "version_id": version.id, "k": len(point), "digest": digest, "data": blob}
                rows.append(row)
        if rows:
            uow.bulk_insert(Coordinates, rows)
            uow.event("coordinates.add", {"space": new.id, "versions": [row["version_id"] for row in rows]})
    return refused


def theta_of(registry: Registry, version: Version, space: WeightSpace, ref: str) -> NDArray[np.float32] | None:
    """θ (D,) of a version from its stored file, in the space's gauge; None when there is none that can be used."""
    if version.artifact_digest is None:
        return None
    try:
        with registry.artifacts.local(version.artifact_digest) as path:
            return place(read_lora(path), space, ref, version.base_model).theta
    except RegistryError:
        return None
