"""Likenesses that refuse: the references kept of them, and the rows of those whose consent has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Coordinates, Version, VersionSubject
from w2w_registry.catalog.fingerprints import Fingerprint
from w2w_registry.catalog.likeness import WeightsSketch
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.subjects import ConsentRecord, GuardReference, Subject, SubjectState
from w2w_registry.records import ConsentState, VersionState


@once
def references(session: Session) -> list[GuardReference]:
    """Every reference kept."""
    return list(session.scalars(select(GuardReference).order_by(GuardReference.id)))


AGREED = " agreed"
"""What the kind of a reference ends in whose subject agrees again: it tells who a newcomer is, and refuses nobody."""


def parts(kind: str) -> tuple[str, str]:
    """What a reference is of, and the id of the key it was made with."""
    what, _, key_name = kind.removesuffix(AGREED).rpartition("/")
    return what, key_name


_OVER = (ConsentState.WITHDRAWN, ConsentState.INVALIDATED, ConsentState.EXPIRED, ConsentState.UNKNOWN)


@once
def perhaps_refusing(session: Session, at: datetime) -> set[str]:
    """Subjects who withdrew or are protected, or some of whose records are over or contested (state ``unknown``) at
    ``at``: consent rules say which."""
    ended = select(ConsentRecord.subject_id).where(
        or_(
            ConsentRecord.state.in_(_OVER),
            ConsentRecord.expires_at <= at,
        )
    )
    found = set(session.scalars(ended.distinct()))
    found.update(session.scalars(select(Subject.id).where(Subject.state != SubjectState.ACTIVE)))
    return found


def run_out(session: Session, since: datetime, until: datetime) -> list[tuple[str, str]]:
    """Consents whose term ended after ``since``, by ``until`` at the latest: (subject, record), in order."""
    term = (ConsentRecord.expires_at > since, ConsentRecord.expires_at <= until)
    query = select(ConsentRecord.subject_id, ConsentRecord.id).where(*term, ConsentRecord.state == ConsentState.GRANTED)
    return [(subject, record) for subject, record in session.execute(query.order_by(ConsentRecord.expires_at))]


def depicting(session: Session, subjects: Iterable[str]) -> dict[int, str]:
    """Versions that depict these subjects by their own account and still hold anything, in any state: id -> subject."""
    found: dict[int, str] = {}
    for chunk in chunked(sorted(set(subjects))):
        rows = session.execute(
            select(VersionSubject.version_id, VersionSubject.subject_id)
            .join(Version, Version.id == VersionSubject.version_id)
            .where(VersionSubject.subject_id.in_(chunk), Version.state != VersionState.ERASED)
        )
        found.update((row.version_id, row.subject_id) for row in rows)
    return found


def points_by_space(session: Session, versions: Collection[int]) -> dict[int, list[tuple[int, bytes]]]:
    """Coordinates of these versions as stored, by space: (version id, bytes)."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for chunk in chunked(sorted(versions)):
        query = select(Coordinates.space_id, Coordinates.version_id, Coordinates.data)
        for space_id, version_id, data in session.execute(query.where(Coordinates.version_id.in_(chunk))):
            found.setdefault(space_id, []).append((version_id, data))
    return found


def sketches(session: Session, kind: str, versions: Collection[int]) -> list[tuple[int, bytes]]:
    """Sketches of these versions as stored: (version id, bytes)."""
    return [
        (version_id, data)
        for chunk in chunked(sorted(versions))
        for version_id, data in session.execute(
            select(WeightsSketch.version_id, WeightsSketch.data).where(
                WeightsSketch.kind == kind, WeightsSketch.version_id.in_(chunk)
            )
        )
    ]


def strangers(session: Session, space_id: int, besides: Collection[int], limit: int) -> list[bytes]:
    """Coordinates of versions in service that are none of ``besides``, at most ``limit``, the oldest first."""
    rows = session.execute(
        select(Coordinates.version_id, Coordinates.data)
        .join(Version, Version.id == Coordinates.version_id)
        .where(Coordinates.space_id == space_id, Version.state == VersionState.ACTIVE)
        .order_by(Coordinates.version_id)
        .limit(limit + len(besides))
    )
    return [data for version_id, data in rows if version_id not in besides][:limit]


def stranger_sketches(session: Session, kind: str, besides: Collection[int], limit: int) -> list[bytes]:
    """Sketches of versions in service that are none of ``besides``, at most ``limit``, the oldest first."""
    rows = session.execute(
        select(WeightsSketch.version_id, WeightsSketch.data)
        .join(Version, Version.id == WeightsSketch.version_id)
        .where(WeightsSketch.kind == kind, Version.state == VersionState.ACTIVE)
        .order_by(WeightsSketch.version_id)
        .limit(limit + len(besides))
    )
    return [data for version_id, data in rows if version_id not in besides][:limit]


def stranger_prints(
    session: Session, base: str, question: str, besides: Collection[int], limit: int
) -> list[tuple[int, bytes]]:
    """Fingerprints of versions in service that are none of ``besides``, one an identity, at most ``limit``, the oldest
    first: (version id, bytes)."""
    first = (
        select(func.min(Version.id))
        .join(Fingerprint, Fingerprint.version_id == Version.id)
        .where(Fingerprint.base == base, Fingerprint.question == question, Version.state == VersionState.ACTIVE)
        .group_by(Version.identity_id)
    )
    rows = session.execute(
        select(Fingerprint.version_id, Fingerprint.data)
        .where(Fingerprint.base == base, Fingerprint.question == question, Fingerprint.version_id.in_(first))
        .order_by(Fingerprint.version_id)
        .limit(limit + len(besides))
    )
    return [(version_id, data) for version_id, data in rows if version_id not in besides][:limit]


def erased_with_digests(session: Session, model_digests: Iterable[str]) -> dict[str, str]:
    """Which of these very models were erased versions of a subject who withdrew: model digest -> subject."""
    found: dict[str, str] = {}
    for chunk in chunked(model_digests):
        rows = session.execute(
            select(Version.model_digest, Subject.id)
            .join(VersionSubject, VersionSubject.version_id == Version.id)
            .join(Subject, Subject.id == VersionSubject.subject_id)
            .where(
                Version.model_digest.in_(chunk),
                Version.state == VersionState.ERASED,
                Subject.state.in_([SubjectState.WITHDRAWN, SubjectState.ERASED]),
            )
            .order_by(Version.id.desc())
        )
        found.update((digest, subject) for digest, subject in rows)
    return found
