"""Replaying a version: computing it again from what was recorded, and saying how near the result is.

Imports and pulls are placed again from the stored LoRA; edits, mixtures and samples are worked out again from their
inputs' coordinates. Trainings and inversions run again on their photos, which the registry knows by digest only:
whoever asks says where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import first_between
from w2w_registry.catalog.lineage import inputs_of
from w2w_registry.catalog.models import Coordinates, InputKind, OperationInput, Space, Version
from w2w_registry.catalog.operations import RESEMBLES
from w2w_registry.catalog.points import newest_points
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.space_rows import knows_direction
from w2w_registry.catalog.vectors import pack, unpack
from w2w_registry.errors import IntegrityError, NotFound
from w2w_registry.provenance.graph import OperationNode
from w2w_registry.provenance.replay import (
    CLOSED_FORM,
    Comparison,
    Outcome,
    Planned,
    Replayed,
    ReplayPlan,
    compare,
    plan,
)
from w2w_registry.services.provenance import replay_training
from w2w_registry.services.provenance.replay_training import Impossible, Rerun
from w2w_registry.services.recording.manifests import operation_nodes
from w2w_registry.services.recording.sources import Vector
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.version import __version__

TOLERANCE: Final = 1e-4
"""Relative L2 distance of coordinates that float32 arithmetic in another order explains."""
RERUN: Final = ("train", "invert")


@dataclass(frozen=True, eq=False)
class _Subject:
    """The version being replayed, its rows and its operation."""

    version: Version
    space: Space
    operation: OperationNode
    inputs: tuple[OperationInput, ...]
    recorded: Vector

    @property
    def name(self) -> str:
        return f"{self.version.identity.name}@{self.version.number}"


def replay(
    registry: Registry,
    reference: str,
    given: replay_training.Given | None = None,
    *,
    dry_run: bool = False,
    tolerance: float = TOLERANCE,
    progress: Progress = no_progress,
) -> Planned:
    """Plan the replay of a version, perform it unless ``dry_run``, and compare.

    Args:
        given: where the photos and the base model of a training or inversion are, and what to run it on.

    Returns:
        The plan; :class:`Replayed`, with how it came out, when it was performed.

    Raises:
        NotFound: no such version. IntegrityError: its stored coordinates are not what was recorded.
        ConsentDenied: a training or inversion that would not be allowed today. BadImage, DeviceError.
    """
    with registry.catalog.read() as session:
        subject = _subject(session, version_for(session, reference, any_state=True))
        rerun = None
        if subject.operation.kind in RERUN:
            rerun = replay_training.prepare(
                registry, session, subject.version, subject.operation, given or replay_training.Given()
            )
        made = _plan(registry, session, subject, rerun)
        if dry_run:
            return made.told()
        if rerun is None or made.missing:
            result = _perform(registry, session, subject, made, tolerance)
    if rerun is not None and not made.missing:
        result = _run_again(registry, subject, rerun, made, tolerance, progress)
    return Replayed(
        **made.told(),
        outcome=str(result.outcome),
        distance=result.distance,
        tolerance=tolerance,
        reasons=list(result.reasons),
    )


def _subject(session: Session, version: Version) -> _Subject:
    node = operation_nodes(session, [version.id])[version.operation_id]
    inputs = inputs_of(session, version.operation_id)
    row = session.get(Coordinates, (version.space_id, version.id))
    name = f"{version.identity.name}@{version.number}"
    if row is None:
        raise NotFound(what="coordinates of", name=name)
    recorded = unpack(row.data)
    found = pack(recorded)[1]
    if found != row.digest:
        raise IntegrityError(what="coordinates of", name=name, expected=row.digest, found=found)
    return _Subject(version, session.get_one(Space, version.space_id), node, tuple(inputs), recorded)


def _plan(registry: Registry, session: Session, subject: _Subject, rerun: Rerun | None) -> ReplayPlan:
    available = {
        number: _missing(registry, session, subject, item, rerun) for number, item in enumerate(subject.inputs)
    }
    current = {"code_version": __version__}
    if rerun is None:
        return plan(subject.name, subject.operation, available, current)
    return plan(subject.name, subject.operation, available, current | rerun.surroundings, rerun.steps)


def _missing(
    registry: Registry, session: Session, subject: _Subject, item: OperationInput, rerun: Rerun | None
) -> str | None:
    """What stands in the way of using this input again; None when nothing does."""
    if item.role == RESEMBLES:
        return None
    if item.kind is InputKind.VERSION:
        found = session.get(Coordinates, (subject.version.space_id, item.version_id))
        return None if found is not None else "the coordinates of an input were erased"
    if item.kind is InputKind.SPACE:
        return None if item.digest == subject.space.digest else "the space is not the one that was used"
    if item.kind is InputKind.DIRECTION:
        known = item.digest is not None and knows_direction(session, item.digest)
        return None if known else f"direction {item.ref} is not what it was"
    if rerun is not None:
        return rerun.missing(item.kind.value, item.ref, item.digest)
    if item.kind is InputKind.PHOTO:
        return (
            f"photo {item.ref} ({(item.digest or '')[:12]}…) is not kept here, and a {subject.operation.kind} uses none"
        )
    stored = subject.version.artifact_digest
    if stored is not None and registry.artifacts.exists(stored):
        return None
    return "the LoRA is not in the artifact store"


def _perform(registry: Registry, session: Session, subject: _Subject, made: ReplayPlan, tolerance: float) -> Comparison:
    if made.missing:
        return Comparison(Outcome.IMPOSSIBLE, None, made.missing)
    kind = subject.operation.kind
    compute = _REPLAYERS.get(kind)
    if compute is None:
        return Comparison(Outcome.IMPOSSIBLE, None, (f"a {kind} cannot be computed from what is kept",))
    try:
        computed = compute(registry, session, subject)
    except Impossible as error:
        return Comparison(Outcome.IMPOSSIBLE, None, (error.reason,))
    return compare(subject.recorded, computed, tolerance=tolerance, changed=made.changed, exact=kind in CLOSED_FORM)


def _run_again(
    registry: Registry, subject: _Subject, rerun: Rerun, made: ReplayPlan, tolerance: float, progress: Progress
) -> Comparison:
    """A training or inversion on its photos; outside any transaction, because it may take hours."""
    try:
        found = rerun.run(registry, progress)
    except Impossible as error:
        return Comparison(Outcome.IMPOSSIBLE, None, (error.reason,))
    exact = rerun.exact and not made.changed
    result = compare(subject.recorded, found.coordinates, tolerance=tolerance, changed=made.changed, exact=exact)
    if found.model_digest in (None, subject.version.model_digest):
        return replace(result, reasons=(*result.reasons, *found.notes) if result.reasons else ())
    if result.outcome is Outcome.IDENTICAL:
        beyond = "its point in the space is the same, the LoRA beyond it is not"
        return Comparison(Outcome.EQUAL, result.distance, (beyond, *found.notes))
    return replace(result, reasons=(*result.reasons, *found.notes))


def _placed_again(registry: Registry, session: Session, subject: _Subject) -> Vector:
    """Import and pull: the stored LoRA, brought to the space's gauge and projected."""
    from w2w_registry.services.recording.sources import TRANSLATION, open_space_of, source, theta_of

    if TRANSLATION in subject.operation.parameters:
        # Its own coordinates are all that could be "computed" here: they would always agree with themselves.
        raise Impossible(
            "its coordinates were found by what it makes the base model predict, which a replay does not ask"
        )
    row, space = open_space_of(registry, session, subject.space.id)
    origin = source(session, subject.version, row)
    theta = theta_of(registry, origin, space, row.ref, from_coordinates=False)
    return np.asarray(space.project(space.in_gauge(theta[None]))[0], np.float32)


def _edited_again(registry: Registry, session: Session, subject: _Subject) -> Vector:
    from w2w_registry.services.recording.sources import open_space_of
    from w2w_registry.services.synthesis.edit import plan_move

    row, space = open_space_of(registry, session, subject.space.id)
    (start,) = _points(session, subject)
    parameters: Mapping[str, Any] = subject.operation.parameters
    move = plan_move(session, row, space.component_std, start, parameters["amounts"], parameters["keep"])
    return start + move.delta


def _mixed_again(registry: Registry, session: Session, subject: _Subject) -> Vector:
    from w2w_registry.space import sampling

    return sampling.mix(_points(session, subject), subject.operation.parameters["weights"]).astype(np.float32)


def _sampled_again(registry: Registry, session: Session, subject: _Subject) -> Vector:
    from w2w_registry.services.recording.sources import open_space_of
    from w2w_registry.services.synthesis.edit import draw_samples, learned_again

    row, space = open_space_of(registry, session, subject.space.id)
    parameters = subject.operation.parameters
    first = _first_of_batch(session, subject)
    learned = learned_again(session, row, first, parameters)
    if learned is None:
        among = parameters.get("population", parameters.get("spread"))
        raise Impossible(f"it was drawn among {among} identities, and not all of them are left")
    known = newest_points(session, row.id).items() if parameters["min_distance"] else ()
    older = [point for version, point in known if version < first]
    found = draw_samples(
        space,
        learned,
        np.stack(older) if older else learned[:0],
        parameters["count"],
        seed=subject.operation.seed or 0,
        min_distance=parameters["min_distance"],
        shape=parameters["shape"],
    )
    return np.asarray(found.points[parameters["index"]], np.float32)


def _first_of_batch(session: Session, subject: _Subject) -> int:
    """Id of the first version recorded with this one: samples of one command are recorded together, in order."""
    index = int(subject.operation.parameters["index"])
    earlier = first_between(session, subject.version.id - index, subject.version.id)
    return earlier or subject.version.id


def _points(session: Session, subject: _Subject) -> list[Vector]:
    found: list[Vector] = []
    for item in subject.inputs:
        if item.kind is InputKind.VERSION and item.role != RESEMBLES:
            row = session.get_one(Coordinates, (subject.version.space_id, item.version_id))
            found.append(unpack(row.data))
    return found


_REPLAYERS = {
    "import": _placed_again,
    "pull": _placed_again,
    "edit": _edited_again,
    "mix": _mixed_again,
    "sample": _sampled_again,
}
