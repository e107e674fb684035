"""Fitting a space again from the catalog's own files, and moving its identities over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.membership import fitted_models
from w2w_registry.catalog.models import InputKind, Space
from w2w_registry.catalog.resolve import space_for
from w2w_registry.errors import UsageError
from w2w_registry.records import VersionState, now
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.spaces.calibrated import fit_calibrated
from w2w_registry.services.spaces.fitset import FitSet, Member
from w2w_registry.services.spaces.manage import register_space
from w2w_registry.services.spaces.members import enough_people, only_allowed
from w2w_registry.services.spaces.migrate import move, theta_of
from w2w_registry.services.spaces.showing import SpaceShown, show_space


@dataclass(frozen=True, eq=False)
class SpaceRefitted(SpaceShown):
    """A space that was fitted again, how many versions were placed in it, and what to know about it."""

    placed: int
    warnings: list[str]


def refit_space(
    registry: Registry, ref: str, *, without: Sequence[str] = (), progress: Progress = no_progress
) -> SpaceRefitted:
    """Fit the next version of a space from the catalog's own files of its members, some subjects left out, and
    place every version that lives in the old space in the new one.

    Members of subjects whose consent has ended (blocked, removed or erased versions) are left out as well. Members
    that were never registered cannot be read again and are left out, which ``warnings`` says.

    Raises:
        UsageError: fewer than two members are left.
    """
    started = now()
    with registry.catalog.read() as session:
        old = space_for(session, ref)
    fit_set, lost = _members_left(registry, old, without, progress)
    fit_set = only_allowed(registry, fit_set, old.base_model)
    few = enough_people(registry, fit_set)
    found = fit_calibrated(fit_set, old.base_model, old.base_revision, _components(old, fit_set))
    activity = Activity(
        "refit",
        started,
        params={"components": found.space.k, "without": len(without)},
        inputs=[Input("space", InputKind.SPACE, digest=old.digest, ref=old.ref)],
    )
    new = register_space(registry, old.name, found.space, activity, fit_set.members, found.newcomers, parent_id=old.id)
    with registry.catalog.read() as session:
        row = space_for(session, new)
    placed = move(registry, old, row, progress=progress)
    warnings = [f"{lost} members of {old.ref} are not in the catalog and were left out"] if lost else []
    warnings += [] if few is None else [few]
    return SpaceRefitted(**show_space(registry, new), placed=placed.by_file + placed.mapped, warnings=warnings)


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
        theta = next((t for v in known if (t := theta_of(registry, v, space, old.ref)) is not None), None)
        if theta is None:
            lost += 1
            continue
        thetas.append(theta)
        kept.append(Member(member.name, member.model_digest, member.model_digest))
    if len(kept) < 2:
        raise UsageError(reason=f"only {len(kept)} members of {old.ref} are left to fit on")
    return FitSet(space.layout, np.stack(thetas), tuple(kept), (), space.start), lost
