"""The guard at the door: every new version is held against withdrawn and protected subjects before it is recorded.

    version = record_version(uow, new, activity, guard.admit(uow.session, new))

A version cannot be recorded without the admission that is made here, so no service can forget to ask; services that
talk to a person ask ``check`` too, to say more when a newcomer is only flagged.

References are kept per subject's wish (``consent withdraw --protect``); what they are is said in
``w2w_registry.consent.guard``.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.models import (
    Coordinates,
    GuardReference,
    Space,
    Subject,
    SubjectState,
    Version,
    VersionSubject,
)
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.guard import Encounter, Reference, Verdict, meet, similarities, sketch, threshold
from w2w_registry.errors import LikenessRefused
from w2w_registry.records import VersionState
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.recording.versions import Admission, NewVersion

KIND = "simhash-512"
_STRANGERS = 2000


def admit(session: Session, new: NewVersion) -> Admission:
    """Let a new version in, inside the transaction that records it.

    Raises:
        LikenessRefused: it is a withdrawn or protected subject again.
    """
    path = new.name if new.file is None else new.file.name
    check_erased(session, new.model_digest, path=path)
    if new.space_id is None or new.coordinates is None:
        return Admission(new.model_digest)
    met = check(session, session.get_one(Space, new.space_id), new.coordinates, path=path)
    resembles = None if met is None else {"subject": met.subject, "similarity": round(met.similarity, 3)}
    return Admission(new.model_digest, resembles)


def admit_all(session: Session, news: Sequence[NewVersion]) -> list[Admission]:
    """As ``admit``, for many: what was erased and who is protected is asked for once.

    Raises:
        LikenessRefused: one of them is a withdrawn or protected subject again.
    """
    digests = {new.model_digest for new in news}
    erased = erased_models(session, digests)
    protected = {
        space_id
        for space_id in {new.space_id for new in news}
        if space_id is not None and session.scalar(select(exists().where(GuardReference.space_id == space_id)))
    }
    return [
        admit(session, new)
        if new.model_digest in erased or (new.space_id in protected and new.coordinates is not None)
        else Admission(new.model_digest)
        for new in news
    ]


def check(session: Session, space: Space, coordinates: NDArray[np.float32], *, path: str) -> Encounter | None:
    """Compare coordinates (k,) in ``space`` with every do-not-recreate reference there.

    Returns:
        The encounter when it is worth flagging, else None.

    Raises:
        LikenessRefused: as near to a protected subject as two models of one person are.
    """
    rows = session.scalars(
        select(GuardReference).where(GuardReference.space_id == space.id, GuardReference.kind == KIND)
    )
    references = [Reference(row.subject_id, row.salt, row.reference, row.threshold) for row in rows]
    if not references:
        return None
    found = meet(references, metric_of(space).unit(coordinates))
    if found is None or found.verdict is Verdict.PASS:
        return None
    if found.verdict is Verdict.REFUSE:
        raise LikenessRefused(
            path=path, subject=found.subject, score=round(found.similarity, 3), threshold=round(found.threshold, 3)
        )
    return found


def check_erased(session: Session, model_digest: str, *, path: str) -> None:
    """Refuse the very model that was erased when its subject withdrew, until the subject consents again.

    Raises:
        LikenessRefused.
    """
    subject = session.scalar(
        select(Subject.id)
        .join(VersionSubject, VersionSubject.subject_id == Subject.id)
        .join(Version, Version.id == VersionSubject.version_id)
        .where(
            Version.model_digest == model_digest,
            Version.state == VersionState.ERASED,
            Subject.state.in_([SubjectState.WITHDRAWN, SubjectState.ERASED]),
        )
        .limit(1)
    )
    if subject is not None:
        raise LikenessRefused(path=path, subject=subject, score=1.0, threshold=1.0)


def erased_models(session: Session, model_digests: Collection[str]) -> set[str]:
    """Those of the models of which some version was erased: ``check_erased`` says whether it refuses them."""
    found: set[str] = set()
    for chunk in chunked(sorted(model_digests)):
        query = select(Version.model_digest).where(
            Version.model_digest.in_(chunk), Version.state == VersionState.ERASED
        )
        found.update(session.scalars(query))
    return found


def protect(uow: UnitOfWork, subject_id: str, version_ids: list[int], depicting: set[int]) -> int:
    """Keep a reference per version given, unless the subject has one of it; returns how many were added.

    Args:
        version_ids: versions that depict the subject themselves (no derivatives).
        depicting: every version that depicts the subject; none of them is a stranger to calibrate on.
    """
    session = uow.session
    if session.scalar(select(func.count()).where(GuardReference.subject_id == subject_id)):
        return 0
    points = session.execute(
        select(Coordinates.space_id, Coordinates.data)
        .where(Coordinates.version_id.in_(version_ids))
        .order_by(Coordinates.version_id, Coordinates.space_id)
    ).all()
    for space_id, data in points:
        keep(uow, subject_id, session.get_one(Space, space_id), unpack(data), depicting)
    return len(points)


def keep(
    uow: UnitOfWork, subject_id: str, space: Space, coordinates: NDArray[np.float32], depicting: set[int]
) -> float:
    """Keep one reference, from coordinates (k,) in ``space``; returns the cosine it refuses from.

    Args:
        depicting: versions that depict the subject; none of them is a stranger to calibrate on.
    """
    metric = metric_of(space)
    salt = secrets.token_bytes(32)
    mine = sketch(metric.unit(coordinates), salt)
    limit = threshold(similarities(salt, mine, metric.unit(_strangers(uow.session, space, depicting))))
    uow.add(
        GuardReference(
            subject_id=subject_id,
            space_id=space.id,
            kind=KIND,
            salt=salt,
            reference=mine,
            threshold=limit,
            created=uow.now(),
        )
    )
    return limit


def unprotect(uow: UnitOfWork, subject_id: str) -> int:
    """Forget a subject's references, as a new consent asks; returns how many there were."""
    keys = uow.keys(GuardReference, GuardReference.subject_id == subject_id)
    return uow.bulk_delete(GuardReference, keys)


def _strangers(session: Session, space: Space, depicting: set[int]) -> NDArray[np.float32]:
    """Coordinates (n, k) of versions that are somebody else, at most ``_STRANGERS``, the oldest first."""
    rows = session.execute(
        select(Coordinates.version_id, Coordinates.data)
        .join(Version, Version.id == Coordinates.version_id)
        .where(Coordinates.space_id == space.id, Version.state == VersionState.ACTIVE)
        .order_by(Coordinates.version_id)
        .limit(_STRANGERS + len(depicting))
    )
    found = [unpack(data) for version_id, data in rows if version_id not in depicting]
    return np.stack(found[:_STRANGERS]) if found else np.zeros((0, space.components), np.float32)
