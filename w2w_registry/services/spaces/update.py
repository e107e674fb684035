"""Taking further LoRAs into a space whose own are not at hand, and its identities along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.membership import FittedModel, fitted_models
from w2w_registry.catalog.models import InputKind, Space, Version
from w2w_registry.catalog.resolve import space_for
from w2w_registry.commands import command
from w2w_registry.errors import BadLora, UsageError
from w2w_registry.records import VersionState, counted, now
from w2w_registry.services.consent.door import Door
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.spaces.calibrated import FALSE_MATCH_RATE
from w2w_registry.services.spaces.fitset import FitSet, Member, read_fit_set
from w2w_registry.services.spaces.manage import register_space
from w2w_registry.services.spaces.members import only_allowed
from w2w_registry.services.spaces.migrate import move
from w2w_registry.services.spaces.showing import SpaceShown, show_space
from w2w_registry.services.spaces.spool import spooled
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.start import shares_start
from w2w_registry.space.update import updated


@dataclass(frozen=True, eq=False)
class SpaceUpdated(SpaceShown):
    """A space that took in LoRAs: how many, what share of the variance cutting it to its components lost and what share
    its axes never held (``space.update``), how its versions were placed (``Moved``), and what to know about it."""

    added: int
    lost: float
    unknown: float | None
    placed: int
    by_file: int
    mapped: int
    mapping_loss: float | None
    mapping_loss_largest: float | None
    refused: int
    warnings: list[str]


_UNCALIBRATED = "{} are too few to calibrate what score means the same identity"


def update_space(
    registry: Registry,
    ref: str,
    paths: Sequence[str],
    *,
    components: int | None = None,
    progress: Progress = no_progress,
) -> SpaceUpdated:
    """Make the next version of a space with further LoRAs, without reading those it was fitted on, and place every
    version that lives in the old space in the new one by its coordinates.

    What a space keeps of its members is its mean, axes and variances, so somebody who has withdrawn stays in them:
    such a space is refused, and has to be fitted again without that person.

    Args:
        components: k to keep; None = as many as the space has.

    Raises:
        UsageError: nothing new, a member of the space who has withdrawn, or too many components. BadLora. NotFound.
    """
    started = now()
    with registry.catalog.read() as session:
        old = space_for(session, ref)
        members = fitted_models(session, old.id)
    _check_members(registry, old, members)
    space = load_space(registry.artifacts, old)
    with spooled(registry.settings.temporary_dir, paths, old.base_model) as spool:
        read = read_fit_set(spool, paths, old.base_model, progress, least=1)
        fitting = _fitting(read, old, space, {m.model_digest for m in members})
        fit_set = only_allowed(registry, fitting, old.base_model)
        digests = [member.model_digest for member in fit_set.members]
        if not digests:
            raise UsageError(reason="none of these LoRAs can be added: " + _why(fit_set))
        found = updated(space, fit_set.thetas, digests, components=components, false_match_rate=FALSE_MATCH_RATE)
        inputs = [
            Input("space", InputKind.SPACE, digest=old.digest, ref=old.ref),
            *(Input("lora", InputKind.FILE, digest=m.sha256, ref=m.name) for m in fit_set.members),
        ]
        activity = Activity("update", started, params={"components": found.space.k}, inputs=inputs)
        kept = [Member(m.name, m.model_digest, m.model_digest) for m in members]
        newcomers = {key: value for key, value in old.calibration.items() if key in ("residual", "ordinary")}
        new = register_space(
            registry, old.name, found.space, activity, [*kept, *fit_set.members], newcomers, parent_id=old.id
        )
    placed = move(registry, old, _row(registry, new), files=False, progress=progress)
    warnings = [f"left out: {e.fields.get('path')}: {e.fields.get('reason')}" for e in fit_set.skipped]
    if found.space.calibration is None:
        warnings.append(_UNCALIBRATED.format(counted(len(digests), "new LoRA")))
    return SpaceUpdated(
        **show_space(registry, new),
        added=len(digests),
        lost=found.lost,
        unknown=found.unknown,
        **placed.to_json(),
        warnings=warnings,
    )


def _row(registry: Registry, ref: str) -> Space:
    with registry.catalog.read() as session:
        return space_for(session, ref)


def _check_members(registry: Registry, old: Space, members: Sequence[FittedModel]) -> None:
    """Raise when somebody the space was fitted on has withdrawn, or refused since."""
    with registry.catalog.read() as session:
        versions = versions_by_id(session, {v for m in members for v in m.versions})
        refused = set(Door(registry, session).encounters(list(versions)))
    gone = [m for m in members if _is_gone([versions[v] for v in m.versions], refused)]
    if gone:
        subject = min((s for m in gone for s in m.subjects), default="SUBJECT")
        raise UsageError(
            reason=f"{old.ref} was fitted on {counted(len(gone), 'model')} of people who have withdrawn or were "
            "removed, and an update keeps what it learned from them",
            hint=f"fit it again without them: `{command('space refit', old.ref, without=subject)}`",
        )


def _is_gone(versions: Sequence[Version], refused: set[int]) -> bool:
    """Whether a member that is registered may no longer be learned from; of others nothing is known."""
    states = {version.state for version in versions}
    return bool(versions) and (
        VersionState.BLOCKED in states
        or VersionState.ACTIVE not in states
        or any(version.id in refused for version in versions)
    )


def _fitting(read: FitSet, old: Space, space: WeightSpace, known: set[str]) -> FitSet:
    """The LoRAs that belong in the space and are not in its fit set yet, in its gauge."""
    if read.layout != space.layout:
        raise UsageError(reason=f"the layout of these LoRAs (modules, rank or alpha) is not that of {old.ref}")
    fresh = np.array([member.model_digest not in known for member in read.members])
    again = [
        BadLora(path=member.name, reason=f"{old.ref} was fitted on it already")
        for member, new in zip(read.members, fresh, strict=True)
        if not new
    ]
    fit_set = read.only(fresh, *again)
    if space.start is None or not fit_set.members:
        return fit_set
    ours = np.concatenate([shares_start(block, space.layout, space.start) for _, block in fit_set.blocks()])
    strangers = [
        BadLora(path=member.name, reason=f"it was not trained from the same initialisation as those of {old.ref}")
        for member, own in zip(fit_set.members, ours, strict=True)
        if not own
    ]
    fit_set = fit_set.only(ours, *strangers)
    return fit_set.in_gauge(space.start) if fit_set.members else fit_set


def _why(fit_set: FitSet) -> str:
    return str(fit_set.skipped[0].fields.get("reason")) if fit_set.skipped else "there are none"
