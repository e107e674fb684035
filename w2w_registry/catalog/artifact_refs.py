"""Which rows hold which artifacts: the one list that erasure and the sweep of unused files go by."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Version
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.subjects import ConsentRecord

_OF_VERSIONS = (Version.artifact_digest, Version.preview_digest, Version.manifest_digest)
REFERENCES = (*_OF_VERSIONS, Space.artifact_digest, ConsentRecord.evidence_digest)
"""Every column that names an artifact (evidence only where its content was kept)."""


def held(
    session: Session, digests: Iterable[str], *, besides: Collection[int] = (), besides_subject: str | None = None
) -> set[str]:
    """Of these artifacts, those that somebody holds: versions other than ``besides``, spaces, and the consent records
    of subjects other than ``besides_subject``."""
    apart = set(besides)
    found: set[str] = set()
    for chunk in chunked(digests):
        for column in _OF_VERSIONS:
            rows = session.execute(select(column, Version.id).where(column.in_(chunk)))
            found.update(digest for digest, version in rows if digest is not None and version not in apart)
        found.update(session.scalars(select(Space.artifact_digest).where(Space.artifact_digest.in_(chunk))))
        kept = select(ConsentRecord.evidence_digest, ConsentRecord.subject_id).where(
            ConsentRecord.evidence_digest.in_(chunk), ConsentRecord.evidence_stored.is_(True)
        )
        found.update(digest for digest, subject in session.execute(kept) if digest and subject != besides_subject)
    return found


def referred(session: Session) -> set[str]:
    """Every artifact that any row refers to."""
    found: set[str] = set()
    for column in REFERENCES:
        query = select(column).where(column.is_not(None)).distinct()
        if column is ConsentRecord.evidence_digest:
            query = query.where(ConsentRecord.evidence_stored.is_(True))
        found.update(digest for digest in session.scalars(query) if digest is not None)
    return found


def evidence_of(session: Session, subject: str) -> set[str]:
    """Artifacts kept as evidence of a subject's consents."""
    query = select(ConsentRecord.evidence_digest).where(
        ConsentRecord.subject_id == subject, ConsentRecord.evidence_stored.is_(True)
    )
    return {digest for digest in session.scalars(query) if digest is not None}
