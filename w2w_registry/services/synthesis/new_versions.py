"""What every service that makes versions shares: the sources it starts from, and the one transaction it ends in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import names_beginning
from w2w_registry.catalog.lineage import ancestor_ids
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import InputKind, Space
from w2w_registry.catalog.operations import RESEMBLES
from w2w_registry.commands import command
from w2w_registry.consent.policy import Decision
from w2w_registry.consent.records import Use
from w2w_registry.lora import Factors, lora_files, model_digest
from w2w_registry.records import IdentityRef, Kind, OperationKind, Result, check_name
from w2w_registry.services.consent import gate, namesakes
from w2w_registry.services.consent.door import Door
from w2w_registry.services.consent.holding import why_held
from w2w_registry.services.recording import centres
from w2w_registry.services.recording.garbage import seldom_collected
from w2w_registry.services.recording.likeness import Likeness, factors_of, sketches_of
from w2w_registry.services.recording.newcomers import Newcomer, ask, can_ask
from w2w_registry.services.recording.searched import Searched, Searching, searching
from w2w_registry.services.recording.sources import (
    Vector,
)
from w2w_registry.services.recording.versions import (
    Activity,
    Admission,
    Input,
    NewVersion,
    Recorded,
    Recording,
    record_versions,
)
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.metrics import false_alarm_among
from w2w_registry.space.sketch import Sketch
from w2w_registry.space.verdict import LIKELY

_MAY_RESEMBLE = (OperationKind.SAMPLE, OperationKind.MIX, OperationKind.EDIT)
_NEAREST = 3
_HELD_SHOWN = 10
_TOGETHER = 1024  # drafts recorded by the same statements: what memory holds of their rows
_PREPARED = 128  # drafts whose θ memory holds at once


@dataclass(frozen=True, eq=False)
class Made(Result):
    """A version that was recorded. ``held``: why it waits for a second person, None when it does not."""

    identity: str
    version: int
    ref: str
    kind: str
    space: str
    operation: str
    operation_kind: str
    held: str | None


@dataclass(frozen=True, eq=False)
class Draft:
    """A new version, not recorded yet: its coordinates (k,), and what it is to be called and to depict.

    ``theta`` (D,) is the LoRA itself when it is more than its point in the space; it is then stored as well.
    """

    name: str
    kind: Kind
    coordinates: Vector
    activity: Activity
    subjects: Sequence[str] = ()
    labels: Mapping[str, float | str] = field(default_factory=dict)
    theta: Vector | None = None


@dataclass(frozen=True)
class Permission:
    """What the gate is to be asked before the drafts are made, and again as they are recorded."""

    use: Use
    versions: Sequence[int] = ()
    subjects: Sequence[str] = ()
    kind: Kind | None = None
    spaces: Sequence[int] = ()
    purpose: str | None = None

    def require(self, registry: Registry, session: Session | None = None) -> Decision:
        """Raises ConsentDenied."""
        return gate.require(
            registry,
            self.use,
            versions=self.versions,
            subjects=self.subjects,
            kind=self.kind,
            spaces=self.spaces,
            purpose=self.purpose,
            session=session,
        )


@seldom_collected()
def record(
    registry: Registry,
    space_row: Space,
    space: WeightSpace,
    drafts: Sequence[Draft],
    permission: Permission,
    pipeline: str | None = None,
    asked: Searching | None = None,
) -> list[Made]:
    """Record every draft, or none: one transaction, one version with its operation and events per draft.

    The gate is asked again inside, so that a withdrawal that came in meanwhile counts. ``drafts``: each is asked for
    when its turn comes, and let go of then. ``pipeline``: the base model the caller runs, to see what each draws
    (default: where it is known to lie). ``asked``: the search for the drafts' points, where the caller has begun it.

    Raises:
        ConsentDenied, BadName, Conflict.
    """
    with registry.catalog.read() as session:  # before anything is worked out; the door asks again
        namesakes.check(session, ((draft.name, draft.activity) for draft in drafts))
    if asked is None and drafts and space_row.calibration.get("false_match_rate"):
        points = np.stack([draft.coordinates for draft in drafts])
        with searching(registry, space_row, points) as begun:
            return record(registry, space_row, space, drafts, permission, pipeline, begun)
    ready = _prepared(registry, space_row, space, drafts, pipeline)
    if _is_ahead(registry, space, drafts, pipeline):
        ready = iter(list(ready))
    if asked is not None:
        asked.begun()  # so that nobody who wants to write waits for what need not be inside
    made: list[Made] = []
    ref = space_row.ref
    with registry.catalog.write(registry.actor) as uow:
        door = Door(registry, uow.session)
        evidence = gate.evidence(permission.require(registry, uow.session))
        for start in range(0, len(drafts), _TOGETHER):
            few = drafts[start : start + _TOGETHER]
            news = list(islice(ready, len(few)))
            known = None if asked is None else asked.of(start, start + len(few))
            if known is not None:
                few = with_resembled(uow.session, space_row, few, known)
            admissions = door.admit_all(news, [draft.activity for draft in few], searched=known)
            recordings = [
                Recording(new, draft.activity, word, (f"version.{draft.activity.kind}", evidence))
                for new, draft, word in zip(news, few, admissions, strict=True)
            ]
            recorded = record_versions(uow, recordings)
            for draft, one, word in zip(few, recorded, admissions, strict=True):
                made.append(_told(draft, one, word, ref))
    if can_ask(registry, space.base_model, pipeline):
        centres.see(registry, [space_row.id], pipeline=pipeline)
    return made


def _is_ahead(registry: Registry, space: WeightSpace, drafts: Sequence[Draft], pipeline: str | None) -> bool:
    """Whether the drafts are worked out before the transaction, to keep it short: not where they are so many that
    holding on to all would take more memory than there may be, unless asking or storing each takes much longer than
    recording it."""
    few = len(drafts) <= _TOGETHER
    return few or can_ask(registry, space.base_model, pipeline) or any(draft.theta is not None for draft in drafts)


def _prepared(
    registry: Registry, space_row: Space, space: WeightSpace, drafts: Sequence[Draft], pipeline: str | None
) -> Iterator[NewVersion]:
    """What is to be recorded of each draft, ``_PREPARED`` worked out at once."""
    for start in range(0, len(drafts), _PREPARED):
        few = drafts[start : start + _PREPARED]
        thetas = _thetas(space, few)
        yield from _drawn(registry, space, thetas, _new_versions(registry, space_row, space, few, thetas), pipeline)


def with_resembled(session: Session, space_row: Space, drafts: Sequence[Draft], searched: Searched) -> list[Draft]:
    """Samples, mixes and edits that come out as near a registered identity as another training of it would, and likely
    are it in a gallery of this size, have it upstream: what may be done with them is asked of that person too.

    Not so what shares an ancestor with something the draft was made of and is nearer to: an edit of Alice is like her
    mixture with Bob because both are like Alice, and nothing of Bob is in it.
    """
    threshold, rate = space_row.calibration.get("threshold"), space_row.calibration.get("false_match_rate")
    if not threshold or not rate or not any(draft.activity.kind in _MAY_RESEMBLE for draft in drafts):
        return list(drafts)
    ids, scores = searched.ids[:, :_NEAREST], searched.scores[:, :_NEAREST]
    alarms = false_alarm_among(scores, float(threshold), float(rate), searched.size)
    close = (ids >= 0) & (scores >= threshold) & (alarms <= LIKELY)
    near = [row[chosen].tolist() for row, chosen in zip(ids, close, strict=True)]
    refs = refs_of(session, {i for row in near for i in row})
    return [
        _resembling(session, draft, row, refs) if draft.activity.kind in _MAY_RESEMBLE else draft
        for draft, row in zip(drafts, near, strict=True)
    ]


def _resembling(session: Session, draft: Draft, near: Sequence[int], refs: Mapping[int, IdentityRef]) -> Draft:
    """``near``: ids of versions, the nearest first."""
    inputs = [item.version_id for item in draft.activity.inputs if item.version_id is not None]
    upstream = ancestor_ids(session, inputs) if near and inputs else set()
    nearer: set[int] = set()
    more: list[Input] = []
    for i in near:
        if i in upstream:
            nearer |= ancestor_ids(session, [i])
        elif i in refs and not (nearer and nearer & ancestor_ids(session, [i])):
            more.append(Input(RESEMBLES, InputKind.VERSION, version_id=i, ref=str(refs[i])))
    return replace(draft, activity=replace(draft.activity, inputs=(*draft.activity.inputs, *more))) if more else draft


def _drawn(
    registry: Registry,
    space: WeightSpace,
    thetas: Sequence[Vector],
    prepared: Sequence[NewVersion],
    pipeline: str | None,
) -> list[NewVersion]:
    """The versions with what they draw, where the base model is at hand."""
    if not can_ask(registry, space.base_model, pipeline):
        return list(prepared)
    newcomers = [Newcomer(space.base_model, layout=space.layout, theta=theta) for theta in thetas]
    return [
        replace(new, likeness=replace(new.likeness, prints=answer.prints))
        for new, answer in zip(prepared, ask(registry, newcomers, pipeline), strict=True)
    ]


def _thetas(space: WeightSpace, drafts: Sequence[Draft]) -> list[Vector]:
    """θ (D,) of each draft: its own, else what its coordinates amount to."""
    thetas = {i: draft.theta for i, draft in enumerate(drafts) if draft.theta is not None}
    points = {i: draft.coordinates for i, draft in enumerate(drafts) if draft.theta is None}
    if points:
        thetas |= dict(zip(points, space.reconstruct(np.stack(list(points.values()))), strict=True))
    return [thetas[i] for i in range(len(drafts))]


def _new_versions(
    registry: Registry, space_row: Space, space: WeightSpace, drafts: Sequence[Draft], thetas: Sequence[Vector]
) -> list[NewVersion]:
    """What is to be recorded of each draft. θ itself is let go: it is worked out again where the door asks for it."""
    drawn = sketches_of(thetas, space.layout)
    return [
        _new_version(registry, space_row, space, draft, theta, sketch)
        for draft, theta, sketch in zip(drafts, thetas, drawn, strict=True)
    ]


def _new_version(
    registry: Registry, space_row: Space, space: WeightSpace, draft: Draft, theta: Vector, sketch: Sketch
) -> NewVersion:
    artifact, residual = None, 0.0
    if draft.theta is not None:
        residual = float(space.residual(space.in_gauge(theta[None])[0], draft.coordinates))
        files = lora_files(
            "lora.safetensors",
            space.layout.unflatten(theta),
            space.layout.alpha,
            fmt="diffusers",
            base_model=space.base_model,
            revision=space.base_revision,
        )
        artifact = registry.artifacts.put(next(iter(files.values())))

    def factors() -> Factors:
        return factors_of(space.reconstruct(draft.coordinates) if draft.theta is None else draft.theta, space.layout)

    return NewVersion(
        name=draft.name,
        kind=draft.kind,
        space_id=space_row.id,
        model_digest=model_digest(theta, space.layout),
        coordinates=draft.coordinates,
        base_model=space.base_model,
        likeness=Likeness(factors, sketch),
        base_revision=space.base_revision,
        residual=residual,
        artifact_digest=artifact,
        subjects=draft.subjects,
        labels=draft.labels,
    )


def _told(draft: Draft, recorded: Recorded, word: Admission, space: str) -> Made:
    ref = f"{draft.name}@{recorded.number}"
    return Made(
        identity=draft.name,
        version=recorded.number,
        ref=ref,
        kind=draft.kind.value,
        space=space,
        operation=recorded.operation_id,
        operation_kind=str(draft.activity.kind),
        held=None if word.held is None else why_held(ref, word.held),
    )


def said_held(made: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to tell of those recorded that are held: the first few one by one, the others counted."""
    told = [f"{row['ref']}: {row['held']}" for row in made if row.get("held")]
    rest = len(told) - _HELD_SHOWN
    return (
        told
        if rest <= 0
        else [*told[:_HELD_SHOWN], f"{rest} more are held; `{command('audit query', 'held')}` lists them"]
    )


def free_names(session: Session, prefix: str, count: int) -> list[str]:
    """``count`` names ``prefix-001``… that no identity has yet."""
    prefix = check_name(f"{prefix}-001").removesuffix("-001")
    taken = names_beginning(session, f"{prefix}-")
    width = max(3, len(str(count + len(taken))))
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        name = f"{prefix}-{number:0{width}d}"
        if name not in taken:
            names.append(name)
    return names
