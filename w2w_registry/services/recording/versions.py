"""Recording a new version: one operation, its inputs, the version and all that belongs to it, one event.

Every service that makes identity models ends here, so that none can make a version without its provenance.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.identities import find_identity, next_number
from w2w_registry.catalog.models import (
    Coordinates,
    Identity,
    InputKind,
    Label,
    Operation,
    OperationInput,
    SourceFile,
    Version,
    VersionSubject,
)
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import pack
from w2w_registry.errors import Conflict
from w2w_registry.records import Kind, OperationKind, VersionState, check_name
from w2w_registry.services.recording.labels import Labels
from w2w_registry.services.recording.subjects import ensure_subject
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
    """What made a version. ``params`` hold every parameter that affects the result."""

    kind: OperationKind | str
    started_at: datetime
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Input] = ()
    seed: int | None = None
    models: Mapping[str, Any] = field(default_factory=dict)


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
    is no plain LoRA."""

    name: str
    kind: Kind
    space_id: int | None
    model_digest: str
    coordinates: NDArray[np.float32] | None
    base_model: str | None
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
class Admission:
    """The door's word that this very model may be recorded (``services.consent.guard.admit`` alone makes one).

    ``resembles`` says whom the model comes near without being refused: for the event, ids and numbers only.
    """

    model_digest: str
    resembles: Mapping[str, Any] | None = None


def record_operation(uow: UnitOfWork, activity: Activity) -> Operation:
    """Add the operation and its inputs; they are flushed with the next event."""
    operation = Operation(
        id=str(uuid.uuid4()),
        kind=str(activity.kind),
        agent=uow.actor,
        started_at=activity.started_at,
        ended_at=uow.now(),
        params=dict(activity.params),
        seed=activity.seed,
        code_version=__version__,
        models=dict(activity.models),
    )
    uow.session.add(operation)
    for position, item in enumerate(activity.inputs):
        uow.session.add(
            OperationInput(
                operation=operation,
                position=position,
                role=item.role,
                kind=item.kind,
                version_id=item.version_id,
                digest=item.digest,
                ref=item.ref,
            )
        )
    return operation


def record_version(uow: UnitOfWork, new: NewVersion, activity: Activity, admission: Admission) -> Version:
    """Record one version with its operation and one ``version.add`` event; makes the identity when it is new.

    Subjects that are not in the catalog yet are added: a pseudonymous id without consent allows nothing more than
    no subject would.

    Raises:
        BadName: an illegal name. Conflict: the identity exists and is of another kind.
        AssertionError: the admission is of another model (a bug).
    """
    assert admission.model_digest == new.model_digest, "the door admitted another model"
    session = uow.session
    packed = None if new.space_id is None or new.coordinates is None else pack(new.coordinates)
    for subject in new.subjects:
        ensure_subject(uow, subject)
    identity = find_identity(session, check_name(new.name))
    number = 1
    if identity is None:
        identity = Identity(name=new.name, kind=new.kind, created=uow.now())
        session.add(identity)
    else:
        if identity.kind != new.kind:
            raise Conflict(what="identity", name=new.name, reason=f"is of kind {identity.kind}, not {new.kind}")
        number = next_number(session, identity.id)
        if identity.removed is not None:
            identity.removed = None
    operation = record_operation(uow, activity)
    version = Version(
        identity=identity,
        number=number,
        model_digest=new.model_digest,
        space_id=new.space_id,
        operation=operation,
        state=VersionState.ACTIVE,
        residual=new.residual,
        base_model=new.base_model,
        base_revision=new.base_revision,
        manifest_digest=new.manifest_digest,
        artifact_digest=new.artifact_digest,
        preview_digest=new.preview_digest,
        created=uow.now(),
        adapter=new.adapter,
    )
    session.add(version)
    if packed is not None and new.coordinates is not None:
        data, digest = packed
        session.add(
            Coordinates(version=version, space_id=new.space_id, k=len(new.coordinates), digest=digest, data=data)
        )
    if new.file is not None:
        session.add(source_file(version, new.model_digest, new.file, uow.now()))
    for subject in new.subjects:
        session.add(VersionSubject(version=version, subject_id=subject))
    for name, value in new.labels.items():
        number_, text = (float(value), None) if isinstance(value, (int, float)) else (None, str(value))
        session.add(Label(version=version, name=name, number=number_, text=text))
    session.flush()
    uow.event(
        "version.add",
        {"identity": identity.id, "version": version.id, "operation": operation.id, "space": new.space_id},
        number=number,
        kind=str(activity.kind),
        model=new.model_digest,
        coordinates=None if packed is None else packed[1],
        **({} if admission.resembles is None else {"resembles": dict(admission.resembles)}),
    )
    return version


def source_file(version: Version, model_digest: str, file: File, created: datetime) -> SourceFile:
    """The row of a file ``version`` was seen in."""
    return SourceFile(
        version=version,
        sha256=file.sha256,
        model_digest=model_digest,
        format=file.format,
        dtype=file.dtype,
        name=file.name,
        size=file.size,
        created=created,
    )
