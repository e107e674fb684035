"""Rows for tests: the shortest way to a valid space, identity, version."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog.events import stored_events
from w2w_registry.catalog.models import (
    Coordinates,
    Identity,
    InputKind,
    Label,
    Operation,
    OperationInput,
    Space,
    Tag,
    Version,
)
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import pack
from w2w_registry.records import Kind

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)


def digest(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def new_operation(kind: str = "import", **more: Any) -> Operation:
    fields: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "kind": kind,
        "agent": "tester",
        "started_at": T0,
        "code_version": "0",
    }
    return Operation(**{**fields, **more})


def new_space(name: str = "faces", number: int = 1, k: int = 4, **more: Any) -> Space:
    fields: dict[str, Any] = {
        "name": name,
        "number": number,
        "digest": digest((name, number)),
        "base_model": "base/model",
        "layout_digest": digest("layout"),
        "layout": [["m", "A", [1, 2]]],
        "dim": 10,
        "rank": 1,
        "alpha": 27.0,
        "components": k,
        "artifact_digest": digest((name, number, "artifact")),
        "created": T0,
    }
    return Space(**{**fields, **more})


def new_identity(name: str, kind: Kind = Kind.PERSON) -> Identity:
    return Identity(name=name, kind=kind, created=T0)


def new_version(
    identity: Identity,
    space: Space,
    number: int = 1,
    *,
    parents: Sequence[Version] = (),
    operation: Operation | None = None,
    **more: Any,
) -> list[Any]:
    """A version with its operation, inputs and coordinates: ``[version, ...]``."""
    operation = operation or new_operation("mix" if parents else "import")
    fields: dict[str, Any] = {
        "identity": identity,
        "number": number,
        "model_digest": digest((identity.name, number)),
        "space": space,
        "operation": operation,
        "residual": 0.25,
        "base_model": "base/model",
        "created": T0,
    }
    version = Version(**{**fields, **more})
    vector = np.arange(space.components, dtype=np.float32) + number
    data, sha = pack(vector)
    inputs = [
        OperationInput(operation=operation, position=i, role="parent", kind=InputKind.VERSION, version_id=parent.id)
        for i, parent in enumerate(parents)
    ]
    if not parents:
        inputs = [
            OperationInput(
                operation=operation,
                position=0,
                role="lora",
                kind=InputKind.FILE,
                digest=digest(("file", identity.name, number)),
                ref=f"{identity.name}.safetensors",
            )
        ]
    return [
        version,
        *inputs,
        Coordinates(space_id=space.id, version=version, k=space.components, digest=sha, data=data),
    ]


def add_space(uow: UnitOfWork, name: str = "faces", number: int = 1, **more: Any) -> Space:
    fitted = uow.add(new_operation("fit"))
    space = uow.add(new_space(name, number, operation_id=fitted.id, **more))
    uow.event("space.fit", objects={"space": space.id})
    return space


def add_version(
    uow: UnitOfWork,
    name: str,
    space: Space,
    *,
    number: int = 1,
    kind: Kind = Kind.PERSON,
    parents: Sequence[Version] = (),
    labels: dict[str, float | str] | None = None,
    tags: dict[str, str] | None = None,
    identity: Identity | None = None,
    **more: Any,
) -> Version:
    """A version under a new identity (or ``identity``), in one event."""
    identity = identity or new_identity(name, kind)
    version, *rest = new_version(identity, space, number, parents=parents, **more)
    uow.add_all([version, *rest])
    uow.session.flush()
    for key, value in (labels or {}).items():
        text, real = (value, None) if isinstance(value, str) else (None, value)
        uow.add_all([Label(version_id=version.id, name=key, number=real, text=text)])
    uow.add_all(Tag(identity_id=identity.id, key=key, value=value) for key, value in (tags or {}).items())
    uow.session.flush()
    uow.event("version.add", objects={"version": version.id, "identity": identity.id})
    assert isinstance(version, Version)
    return version


class Claim(NamedTuple):
    """What one event says of one row: its digest after the change, None when it was deleted."""

    table: str
    key: str
    digest: str | None
    seq: int


def claims(session: Session) -> Iterator[Claim]:
    """Every claim about a row, in event order; the last one about a row should hold now."""
    for event in stored_events(session):
        changes = event.body["changes"]
        for change in changes if isinstance(changes, list) else ():
            if isinstance(change, list) and len(change) == 4:
                table, key, _, digest = change
                yield Claim(str(table), str(key), digest, event.seq)
