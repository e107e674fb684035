"""What is held of versions and subjects beside the models themselves: photos, files, fingerprints, references."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import SourceFile, Version
from w2w_registry.catalog.fingerprints import Fingerprint
from w2w_registry.catalog.likeness import WeightsSketch
from w2w_registry.catalog.operations import InputKind, Operation, OperationInput
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.subjects import ConsentRecord, GuardReference


class Photo(NamedTuple):
    """A photo that went into a version."""

    version_id: int
    role: str
    digest: str | None
    at: datetime


def photos(session: Session, versions: Sequence[int]) -> list[Photo]:
    """The photos that went into these versions, oldest first."""
    found: list[Photo] = []
    for chunk in chunked(versions):
        query = (
            select(Version.id, OperationInput.role, OperationInput.digest, Operation.started_at)
            .join(Operation, Operation.id == Version.operation_id)
            .join(OperationInput, OperationInput.operation_id == Operation.id)
            .where(Version.id.in_(chunk), OperationInput.kind == InputKind.PHOTO)
            .order_by(Version.id, OperationInput.position)
        )
        found += [Photo(*row) for row in session.execute(query)]
    return found


def files(session: Session, versions: Sequence[int]) -> list[SourceFile]:
    """The files that these versions came in, oldest first."""
    found: list[SourceFile] = []
    for chunk in chunked(versions):
        found += session.scalars(select(SourceFile).where(SourceFile.version_id.in_(chunk)).order_by(SourceFile.id))
    return found


def measured(session: Session, versions: Sequence[int]) -> list[tuple[int, str]]:
    """What was measured of these versions to know them again: (version, ``fingerprint`` or ``sketch``)."""
    found: list[tuple[int, str]] = []
    for chunk in chunked(versions):
        for column, word in ((Fingerprint.version_id, "fingerprint"), (WeightsSketch.version_id, "sketch")):
            found += [(key, word) for key in session.scalars(select(column).where(column.in_(chunk)))]
    return sorted(found)


def evidence_kept(session: Session, subject: str) -> set[str]:
    """Digests of the evidence of a subject's consents whose content is kept too."""
    query = select(ConsentRecord.evidence_digest).where(
        ConsentRecord.subject_id == subject, ConsentRecord.evidence_stored, ConsentRecord.evidence_digest.is_not(None)
    )
    return {digest for digest in session.scalars(query) if digest is not None}


def references(session: Session, subject: str) -> list[GuardReference]:
    """The do-not-recreate references kept of a subject, oldest first."""
    query = select(GuardReference).where(GuardReference.subject_id == subject).order_by(GuardReference.id)
    return list(session.scalars(query))
