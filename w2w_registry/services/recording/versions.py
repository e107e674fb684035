"""Recording a new version: one operation, its inputs, the version and all that belongs to it, one event.

Every service that makes identity models ends here, so that none can make a version without its provenance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.lookup import identities_named
from w2w_registry.catalog.models import (
    Coordinates,
    Fingerprint,
    Hold,
    Identity,
    InputKind,
    Label,
    Operation,
    OperationInput,
    SourceFile,
    Version,
    VersionSubject,
    WeightsSketch,
)
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.staging import NewRow
from w2w_registry.catalog.vectors import pack
from w2w_registry.errors import BadName, Conflict
from w2w_registry.records import Kind, OperationKind, VersionState, check_name, ordered_id
from w2w_registry.services.recording.labels import Labels
from w2w_registry.services.recording.likeness import Likeness
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.space.sketch import KIND, Sketch, cells, packed
from w2w_registry.version import __version__


@dataclass(frozen=True)
class Input:
    """One input of an operation: a version by id, or a file, photo, space, direction or Hub repo by digest."""

    role: str
    kind: InputKind
    version_id: int | None = None
    digest: str | None = None
    ref: str | None = None


@dataclass(frozen=True)
class Activity:
    """What made a version. ``params`` hold every parameter that affects the result. ``energy``: what it used, where
    there was a meter (``recording.energy``)."""

    kind: OperationKind | str
    started_at: datetime
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Input] = ()
    seed: int | None = None
    models: Mapping[str, Any] = field(default_factory=dict)
    energy: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class File:
    """A LoRA file a version came in; ``name`` is its base name."""

    sha256: str
    format: str
    dtype: str
    name: str
    size: int


@dataclass(frozen=True)
class NewVersion:
    """A version to record. ``space_id`` and ``coordinates`` (float32, k) are None together: no weight space holds it.
    ``artifact_digest`` names the stored adapter, None when coordinates are all there is. ``adapter``: its kind when it
    is no plain LoRA. ``likeness``: what the door compares, and what finds the same model again."""

    name: str
    kind: Kind
    space_id: int | None
    model_digest: str
    coordinates: NDArray[np.float32] | None
    base_model: str | None
    likeness: Likeness
    adapter: str | None = None
    base_revision: str | None = None
    residual: float | None = None
    artifact_digest: str | None = None
    manifest_digest: str | None = None
    preview_digest: str | None = None
    file: File | None = None
    subjects: Sequence[str] = ()
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """Why a version is recorded as held: whom it resembles (a version's id and ``name@number``; no id: somebody of whom
    nothing but a reference may be left), compared by what, what is at odds with what it says of itself, how near, and
    how often a stranger comes so near (None: not known)."""

    like_id: int | None
    like: str
    by: str
    why: str
    score: float
    false_alarm: float | None = None


@dataclass(frozen=True)
class Admission:
    """The door's word that this very model may be recorded (``services.consent.door`` alone makes one).

    ``resembles`` says whom the model comes near without being refused: for the event, ids and numbers only. ``held``:
    it comes in, and nothing is done with it until somebody has decided.
    """

    model_digest: str
    resembles: Mapping[str, Any] | None = None
    held: Held | None = None


@dataclass(frozen=True)
class Recording:
    """A version to record, what made it, the door's word, and what one more event is to say of it, if anything: an
    action, and its payload."""

    new: NewVersion
    activity: Activity
    admission: Admission
    also: tuple[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Recorded:
    """A version as it was recorded."""

    version_id: int
    identity_id: int
    number: int
    operation_id: str


def record_operation(uow: UnitOfWork, activity: Activity) -> Operation:
    """Add the operation and its inputs; they are flushed with the next event."""
    of, *inputs = _operation_rows(uow, activity)
    operation = Operation(**of.values)
    uow.session.add_all(
        [operation, *(OperationInput(**{**row.values, "operation_id": operation.id}) for row in inputs)]
    )
    return operation


def _operation_rows(uow: UnitOfWork, activity: Activity) -> list[NewRow]:
    """The operation, and its inputs after it."""
    operation = ordered_id()
    values = {
        "id": operation,
        "kind": str(activity.kind),
        "agent": uow.actor,
        "started_at": activity.started_at,
        "ended_at": uow.now(),
        "params": dict(activity.params),
        "seed": activity.seed,
        "code_version": __version__,
        "models": dict(activity.models),
    }
    return [
        NewRow(Operation, values),
        *(
            NewRow(OperationInput, {"operation_id": operation, "position": position, **vars(item)})
            for position, item in enumerate(activity.inputs)
        ),
    ]


def record_version(uow: UnitOfWork, new: NewVersion, activity: Activity, admission: Admission) -> Version:
    """Record one version: see ``record_versions``."""
    (made,) = record_versions(uow, [Recording(new, activity, admission)])
    return uow.session.get_one(Version, made.version_id)


def record_versions(uow: UnitOfWork, recordings: Sequence[Recording]) -> list[Recorded]:
    """Record versions, each with its operation and one ``version.add`` event; makes the identities that are new.

    Subjects that are not in the catalog yet are added: a pseudonymous id without consent allows nothing more than
    no subject would. A few statements in all, however many there are.

    Raises:
        BadName: an illegal name. Conflict: an identity exists and is of another kind.
        AssertionError: an admission is of another model (a bug).
    """
    for one in recordings:
        assert one.admission.model_digest == one.new.model_digest, "the door admitted another model"
        if check_name(one.new.name) != one.new.name:
            raise BadName(name=one.new.name, what="identity", reason="write its accents composed (Unicode NFC)")
    for subject in dict.fromkeys(subject for one in recordings for subject in one.new.subjects):
        ensure_subject(uow, subject)
    known: dict[str, tuple[Identity | NewRow, int]] = {}
    known.update(identities_named(uow.session, {one.new.name for one in recordings}))
    drawn = [one.new.likeness.sketch for one in recordings]
    belonging = iter(sketches_values([sketch for sketch in drawn if sketch is not None]))
    staged = [
        _stage(uow, one, known, None if sketch is None else next(belonging))
        for one, sketch in zip(recordings, drawn, strict=True)
    ]
    uow.settle()
    return [
        Recorded(v.key[0], _id(v.values["identity_id"]), v.values["number"], v.values["operation_id"]) for v in staged
    ]


def _stage(
    uow: UnitOfWork,
    one: Recording,
    known: dict[str, tuple[Identity | NewRow, int]],
    sketch: Mapping[str, Any] | None,
) -> NewRow:
    """Stage one version's rows and events; returns the version's row. ``known``: identities by name, with the number of
    their newest version. ``sketch``: columns of its weights sketch."""
    new, created, held = one.new, uow.now(), one.admission.held
    packed = None if new.space_id is None or new.coordinates is None else pack(new.coordinates)
    identity, newest = known.get(new.name, (None, 0))
    if identity is None:
        identity = NewRow(Identity, {"name": new.name, "kind": new.kind, "created": created})
        uow.stage(identity)
    elif (kind := identity.values["kind"] if isinstance(identity, NewRow) else identity.kind) != new.kind:
        raise Conflict(what="identity", name=new.name, reason=f"is of kind {kind}, not {new.kind}")
    elif isinstance(identity, Identity) and identity.removed is not None:
        identity.removed = None
    known[new.name] = identity, newest + 1
    rows = _operation_rows(uow, one.activity)
    operation = rows[0].values["id"]
    version = NewRow(
        Version,
        {
            "identity_id": identity if isinstance(identity, NewRow) else identity.id,
            "number": newest + 1,
            "model_digest": new.model_digest,
            "space_id": new.space_id,
            "operation_id": operation,
            "state": VersionState.ACTIVE if held is None else VersionState.HELD,
            "residual": new.residual,
            "base_model": new.base_model,
            "base_revision": new.base_revision,
            "manifest_digest": new.manifest_digest,
            "artifact_digest": new.artifact_digest,
            "preview_digest": new.preview_digest,
            "created": created,
            "adapter": new.adapter,
        },
    )
    rows += [version, *_belongings(version, new, packed, sketch, created)]
    if held is not None:
        rows.append(NewRow(Hold, {"version_id": version, **hold_values(held, created)}))
    uow.stage(*rows)
    uow.stage_event(
        "version.add",
        {"identity": identity, "version": version, "operation": operation, "space": new.space_id},
        number=newest + 1,
        kind=str(one.activity.kind),
        model=new.model_digest,
        coordinates=None if packed is None else packed[1],
        **({"fingerprints": len(new.likeness.prints)} if new.likeness.prints else {}),
        **({} if one.admission.resembles is None else {"resembles": dict(one.admission.resembles)}),
        **({} if one.activity.energy is None else {"energy": dict(one.activity.energy)}),
    )
    if held is not None:
        uow.stage_event("version.hold", {"version": version}, **told_of(held))
    if one.also is not None:
        uow.stage_event(one.also[0], {"version": version, "operation": operation}, **one.also[1])
    return version


def _belongings(
    version: NewRow,
    new: NewVersion,
    packed: tuple[bytes, str] | None,
    sketch: Mapping[str, Any] | None,
    created: datetime,
) -> Iterator[NewRow]:
    """The rows that belong to a version."""
    if packed is not None and new.coordinates is not None:
        placed = {"space_id": new.space_id, "k": len(new.coordinates), "digest": packed[1], "data": packed[0]}
        yield NewRow(Coordinates, {"version_id": version, **placed})
    if sketch is not None:
        yield NewRow(WeightsSketch, {"version_id": version, **sketch})
    for one in new.likeness.prints:
        asked = {"base": one.base, "question": one.question}
        yield NewRow(Fingerprint, {"version_id": version, **asked, "data": pack(one.values)[0]})
    if new.file is not None:
        yield NewRow(SourceFile, {"version_id": version, **source_values(new.model_digest, new.file, created)})
    for subject in dict.fromkeys(new.subjects):
        yield NewRow(VersionSubject, {"version_id": version, "subject_id": subject})
    for name, value in new.labels.items():
        number, text = (float(value), None) if isinstance(value, (int, float)) else (None, str(value))
        yield NewRow(Label, {"version_id": version, "name": name, "number": number, "text": text})


def _id(row: NewRow | int) -> int:
    return int(row.key[0]) if isinstance(row, NewRow) else row


def hold_values(held: Held, created: datetime) -> dict[str, Any]:
    """Columns of an open hold."""
    values = {name: value for name, value in vars(held).items() if name != "like"}
    return {**values, "created": created}


def told_of(held: Held) -> dict[str, Any]:
    """What the event of a hold says: ids and numbers."""
    return {"like": held.like_id, "by": held.by, "why": held.why, "score": held.score}


def sketches_values(sketches: Sequence[Sketch]) -> list[dict[str, Any]]:
    """Columns of weights sketches."""
    return [
        {"kind": KIND, "norm": sketch.norm, "cell": cell, "data": packed(sketch)}
        for sketch, cell in zip(sketches, cells(sketches), strict=True)
    ]


def source_values(model_digest: str, file: File, created: datetime) -> dict[str, Any]:
    """Columns of a file that a version was seen in."""
    return {**vars(file), "model_digest": model_digest, "created": created}


def source_file(version: Version, model_digest: str, file: File, created: datetime) -> SourceFile:
    """The row of a file ``version`` was seen in."""
    return SourceFile(version=version, **source_values(model_digest, file, created))
