"""Where versions come from, as questions of an audit: what went in, what is not told, how each was made."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Identity, SourceFile, Version, VersionSubject
from w2w_registry.catalog.listing import matching
from w2w_registry.catalog.operations import InputKind, Operation, OperationInput
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.where import Expression
from w2w_registry.records import Kind, OperationKind


class Untold(NamedTuple):
    """A version whose origin is not told in full. ``empty``: no input is recorded; ``unnamed``: one has no digest;
    ``unknown``: it depicts somebody and names no subject."""

    version: Version
    name: str
    made_by: str
    empty: bool
    unnamed: bool
    unknown: bool


class Made(NamedTuple):
    """A version with its identity's name and the operation that made it."""

    version: Version
    name: str
    operation: Operation


def untold(session: Session, kinds: Collection[Kind]) -> list[Untold]:
    """Versions of the registry whose origin is not told in full; of ``kinds`` somebody is depicted."""
    of_it = OperationInput.operation_id == Version.operation_id
    told = (InputKind.VERSION, InputKind.FILE, InputKind.PHOTO, InputKind.HUB)
    sampled = Operation.kind == OperationKind.SAMPLE.value
    empty = and_(~exists().where(and_(of_it, OperationInput.kind.in_(told))), ~sampled)
    unnamed = exists().where(and_(of_it, OperationInput.version_id.is_(None), OperationInput.digest.is_(None)))
    unknown = and_(
        Identity.kind.in_(sorted(kinds)),
        ~exists().where(VersionSubject.version_id == Version.id),
        ~exists().where(and_(of_it, OperationInput.version_id.is_not(None))),
        ~sampled,
    )
    rows = session.execute(
        select(Version, Identity.name, Operation.kind, empty, unnamed, unknown)
        .join(Identity, Identity.id == Version.identity_id)
        .join(Operation, Operation.id == Version.operation_id)
        .where(Version.state.in_(PRESENT), or_(empty, unnamed, unknown))
        .order_by(Version.id)
    )
    return [Untold(version, name, made_by, *map(bool, flags)) for version, name, made_by, *flags in rows]


def made_versions(session: Session, where: Expression, limit: int | None = None) -> list[Made]:
    """Versions that match, oldest first, with how each was made."""
    rows = session.execute(
        select(Version, Identity.name, Operation)
        .join(Identity, Identity.id == Version.identity_id)
        .join(Operation, Operation.id == Version.operation_id)
        .where(matching(session, where))
        .order_by(Version.id)
        .limit(limit)
    )
    return [Made(*row) for row in rows]


def versions_from_file(session: Session, sha256: str) -> set[int]:
    """Versions that came in as this very file."""
    return set(session.scalars(select(SourceFile.version_id).where(SourceFile.sha256 == sha256)))


def spaces_from_file(session: Session, sha256: str) -> list[Space]:
    """Spaces that this very file was fitted into."""
    query = select(Space).join(OperationInput, OperationInput.operation_id == Space.operation_id)
    return list(session.scalars(query.where(OperationInput.digest == sha256).order_by(Space.id)))
