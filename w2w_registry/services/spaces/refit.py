"""Fitting a space again from the catalog's own files, and moving its identities over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.membership import fitted_models
from w2w_registry.catalog.models import Coordinates, InputKind, Space, Version
from w2w_registry.catalog.points import placed_versions
from w2w_registry.catalog.vectors import pack
from w2w_registry.errors import RegistryError, UsageError
from w2w_registry.lora import read_lora
from w2w_registry.records import VersionState, now
from w2w_registry.services.recording.placement import place
from w2w_registry.services.recording.spaces import find_space, load_space
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.spaces.calibrated import fit_calibrated
from w2w_registry.services.spaces.fitset import FitSet, Member
from w2w_registry.services.spaces.manage import register_space, show_space
from w2w_registry.services.spaces.members import enough_people, only_allowed
from w2w_registry.space.basis import WeightSpace

_CHUNK = 500


def refit_space(
    registry: Registry, ref: str, *, without: Sequence[str] = (), progress: Progress = no_progress
) -> dict[str, Any]:
    """Fit the next version of a space from the catalog's own files of its members, some subjects left out, and
    place every version that lives in the old space in the new one.

    Members of subjects whose consent has ended (blocked, removed or erased versions) are left out as well. Members
    that were never registered cannot be read again and are left out, which ``warnings`` says.

    Raises:
        UsageError: fewer than two members are left.
    """
    started = now()
    with registry.catalog.read() as session:
        old = find_space(session, ref)
    fit_set, lost = _members_left(registry, old, without, progress)
    fit_set = only_allowed(registry, fit_set)
    few = enough_people(registry, fit_set)
    found = fit_calibrated(fit_set, old.base_model, old.base_revision, _components(old, fit_set))
    space = found.space
    activity = Activity(
        "refit",
        started,
        params={"components": space.k, "without": len(without)},
        inputs=[Input("space", InputKind.SPACE, digest=old.digest, ref=old.ref)],
    )
    new = register_space(registry, old.name, space, activity, fit_set.members, found.residual, parent_id=old.id)
    placed = _move(registry, old, new, space, progress)
    warnings = [f"{lost} members of {old.ref} are not in the catalog and were left out"] if lost else []
    warnings += [] if few is None else [few]
    return {**show_space(registry, new), "placed": placed, "warnings": warnings}


def _components(old: Space, fit_set: FitSet) -> int:
    return min(old.components, len(fit_set.members) - 1)


def _members_left(registry: Registry, old: Space, without: Sequence[str], progress: Progress) -> tuple[FitSet, int]:
    """The fit set of ``old`` as far as the catalog still has and may use it; and how many members it never had."""
    space = load_space(registry.artifacts, old)
    with registry.catalog.read() as session:
        members = fitted_models(session, old.id)
        versions = versions_by_id(session, (v for m in members for v in m.versions))
    excluded = set(without)
    kept: list[Member] = []
    thetas = []
    lost = 0
    for done, member in enumerate(members, start=1):
        progress(done, len(members))
        known = [versions[v] for v in member.versions]
        states = {v.state for v in known}
        if (
            member.subjects & excluded
            or VersionState.BLOCKED in states
            or (known and VersionState.ACTIVE not in states)
        ):
            continue
        theta = next((t for v in known if (t := _theta(registry, v, space, old.ref)) is not None), None)
        if theta is None:
            lost += 1
            continue
        thetas.append(theta)
        kept.append(Member(member.name, member.model_digest, member.model_digest))
    if len(kept) < 2:
        raise UsageError(reason=f"only {len(kept)} members of {old.ref} are left to fit on")
    return FitSet(space.layout, np.stack(thetas), tuple(kept), (), space.start), lost


def _move(registry: Registry, old: Space, new_ref: str, space: WeightSpace, progress: Progress) -> int:
    """Coordinates in the new space for every active version that has some in the old one; how many were placed."""
    old_space = load_space(registry.artifacts, old)
    with registry.catalog.read() as session:
        new = find_space(session, new_ref)
        wanted = placed_versions(session, old.id, lacking=new.id)
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        thetas = []
        for version, old_point in chunk:
            theta = _theta(registry, version, old_space, old.ref)
            # Made from coordinates alone: the point itself is all there is.
            thetas.append(old_space.reconstruct(old_point) if theta is None else theta)
        points = space.project(np.stack(thetas))
        with registry.catalog.write(registry.actor) as uow:
            rows = []
            for (version, _), point in zip(chunk, points, strict=True):
                blob, digest = pack(point)
                rows.append(
                    {"space_id": new.id, "version_id": version.id, "k": len(point), "digest": digest, "data": blob}
                )
            uow.bulk_insert(Coordinates, rows)
            uow.event("coordinates.add", {"space": new.id, "versions": [v.id for v, _ in chunk]})
        progress(min(start + _CHUNK, len(wanted)), len(wanted))
    return len(wanted)


def _theta(registry: Registry, version: Version, space: WeightSpace, ref: str) -> NDArray[np.float32] | None:
    """θ of a version from its stored file; None when there is none that can be used."""
    if version.artifact_digest is None:
        return None
    try:
        with registry.artifacts.local(version.artifact_digest) as path:
            return place(read_lora(path), space, ref, version.base_model).theta
    except RegistryError:
        return None
