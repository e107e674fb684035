"""Whom weight spaces were fitted with: the one place that knows.

A member of a fit set is a model, and whom it depicts is known as soon as that model is registered, before the fit or
after it. So membership joins on the model digest, of versions and of every file they came in; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import select, union
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import SourceFile, Version
from w2w_registry.catalog.lineage import descendant_ids, upstream_subjects
from w2w_registry.catalog.lookup import versions_of_subject
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.spaces import Space, SpaceMember


class FittedModel(NamedTuple):
    """One member of a space: ``position`` in the fit set, ``versions`` (ids) that are this model, in any state, and
    the ``subjects`` they depict, themselves or through their ancestors. Both empty: never registered."""

    position: int
    model_digest: str
    name: str
    versions: tuple[int, ...]
    subjects: frozenset[str]


def fitted_models(session: Session, space_id: int) -> list[FittedModel]:
    """The members of a space in fit order, with whom each depicts by what is registered now."""
    members = session.execute(
        select(SpaceMember.position, SpaceMember.model_digest, SpaceMember.name)
        .where(SpaceMember.space_id == space_id)
        .order_by(SpaceMember.position)
    ).all()
    versions = versions_of_models(session, (m.model_digest for m in members))
    subjects = upstream_subjects(session, sorted({v for ids in versions.values() for v in ids}))
    return [
        FittedModel(
            m.position,
            m.model_digest,
            m.name,
            (ids := tuple(versions.get(m.model_digest, ()))),
            frozenset().union(*(subjects.get(v, ()) for v in ids)),
        )
        for m in members
    ]


def members_after(session: Session, space_id: int, after: int, limit: int) -> list[tuple[int, str, str]]:
    """(position, model digest, name) of at most ``limit`` members of a space behind position ``after``, in fit order;
    −1 begins."""
    query = select(SpaceMember.position, SpaceMember.model_digest, SpaceMember.name)
    query = query.where(SpaceMember.space_id == space_id, SpaceMember.position > after)
    return list(session.execute(query.order_by(SpaceMember.position).limit(limit)).tuples())


def is_member(session: Session, space_id: int, model_digest: str) -> bool:
    """Whether a space was fitted on this model."""
    mine = select(SpaceMember.position).where(
        SpaceMember.space_id == space_id, SpaceMember.model_digest == model_digest
    )
    return session.scalar(mine.limit(1)) is not None


def fitted_subjects(session: Session, space_ids: Iterable[int]) -> set[str]:
    """Subjects whose models any of these spaces was fitted on."""
    return {s for space_id in sorted(set(space_ids)) for m in fitted_models(session, space_id) for s in m.subjects}


def spaces_fitted_with(session: Session, subject: str) -> list[Space]:
    """Spaces that were fitted on models of a subject, or on what was made of them, oldest first."""
    places = member_keys(session, sorted(descendant_ids(session, versions_of_subject(session, subject))))
    ids = sorted({space_id for space_id, _ in places})
    return list(session.scalars(select(Space).where(Space.id.in_(ids)).order_by(Space.id))) if ids else []


def member_keys(session: Session, version_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Primary keys (space, position) of the members that are the models of these versions."""
    found: set[tuple[int, int]] = set()
    for chunk in chunked(version_ids):
        models = union(
            select(Version.model_digest).where(Version.id.in_(chunk)),
            select(SourceFile.model_digest).where(SourceFile.version_id.in_(chunk)),
        )
        places = select(SpaceMember.space_id, SpaceMember.position).where(SpaceMember.model_digest.in_(models))
        found.update((space, position) for space, position in session.execute(places))
    return sorted(found)


def versions_of_models(session: Session, digests: Iterable[str]) -> dict[str, list[int]]:
    """Model digest -> ids of the versions that are, or came in as, this model, in any state, oldest first."""
    found: dict[str, set[int]] = {}
    for chunk in chunked(digests):
        own = select(Version.model_digest, Version.id).where(Version.model_digest.in_(chunk))
        files = select(SourceFile.model_digest, SourceFile.version_id).where(SourceFile.model_digest.in_(chunk))
        for digest, version in [*session.execute(own), *session.execute(files)]:
            found.setdefault(digest, set()).add(version)
    return {digest: sorted(versions) for digest, versions in found.items()}
