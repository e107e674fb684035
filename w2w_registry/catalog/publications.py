"""Releases and takedowns: what is published where, and what is to be taken down."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from w2w_registry.catalog.assets import Version
from w2w_registry.catalog.listing import matching
from w2w_registry.catalog.releases import Release, ReleaseState, Takedown, TakedownState
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.where import Expression

# what a release publishes is shown by its name: fetched with it, not one by one
_NAMES = (joinedload(Release.version).joinedload(Version.identity), joinedload(Release.space))


def record_release(
    uow: UnitOfWork,
    *,
    endpoint: str,
    repo_id: str,
    commit_id: str,
    version_id: int | None = None,
    space_id: int | None = None,
    **facts: Any,
) -> Release:
    """The row of one version or space at one commit of one repo: made, or brought up to ``facts``; flushed.

    Args:
        facts: revision, visibility, gated, format, digests, and state when it is not PUBLISHED.
    """
    row = release_at(uow.session, endpoint, repo_id, commit_id, version_id=version_id, space_id=space_id)
    if row is None:
        row = Release(
            version_id=version_id,
            space_id=space_id,
            endpoint=endpoint,
            repo_id=repo_id,
            commit_id=commit_id,
            created=uow.now(),
        )
        uow.session.add(row)
    for name, value in {"state": ReleaseState.PUBLISHED, "checked_at": uow.now(), **facts}.items():
        setattr(row, name, value)
    uow.session.flush()
    return row


def release_at(
    session: Session,
    endpoint: str,
    repo_id: str,
    commit_id: str,
    *,
    version_id: int | None = None,
    space_id: int | None = None,
) -> Release | None:
    """The release at a commit: of a version or space, or whatever is recorded there."""
    query = select(Release).where(
        Release.repo_id == repo_id, Release.endpoint == endpoint, Release.commit_id == commit_id
    )
    if version_id is not None:
        query = query.where(Release.version_id == version_id)
    if space_id is not None:
        query = query.where(Release.space_id == space_id)
    return session.scalars(query.order_by(Release.id).limit(1)).first()


def releases_of(session: Session, version_ids: Iterable[int]) -> list[Release]:
    """Releases of these versions, in any state, oldest first of each few hundred."""
    return [
        row
        for chunk in chunked(version_ids)
        for row in session.scalars(
            select(Release).options(*_NAMES).where(Release.version_id.in_(chunk)).order_by(Release.id)
        )
    ]


def releases_in(session: Session, endpoint: str, repo_id: str | None = None) -> list[Release]:
    """Releases at an endpoint (in one repo of it) that are not known to be deleted, oldest first."""
    query = select(Release).options(*_NAMES).where(Release.endpoint == endpoint, Release.state != ReleaseState.DELETED)
    if repo_id is not None:
        query = query.where(Release.repo_id == repo_id)
    return list(session.scalars(query.order_by(Release.id)))


def endpoints(session: Session) -> set[str]:
    """Endpoints with a release that is not known to be deleted."""
    return set(session.scalars(select(Release.endpoint).where(Release.state != ReleaseState.DELETED).distinct()))


def known_repos(session: Session, endpoint: str) -> set[str]:
    """Repos of an endpoint that anything was ever published to."""
    return set(session.scalars(select(Release.repo_id).where(Release.endpoint == endpoint).distinct()))


def list_releases(session: Session, where: Expression | None = None) -> list[Release]:
    """Every release, newest first; with ``where``, those of versions that match."""
    query = select(Release).options(*_NAMES).order_by(Release.id.desc())
    if where is not None:
        query = (
            query.join(Version, Version.id == Release.version_id).join(Version.identity).where(matching(session, where))
        )
    return list(session.scalars(query))


def space_release(session: Session, space_id: int) -> Release | None:
    """Where a space is published now, the newest."""
    query = select(Release).where(Release.space_id == space_id, Release.state == ReleaseState.PUBLISHED)
    return session.scalars(query.order_by(Release.id.desc()).limit(1)).first()


def open_takedowns(session: Session, *, releases: Collection[int] | None = None) -> list[Takedown]:
    """Takedowns that are not finished (only those of ``releases``, where they are named), oldest first."""
    query = select(Takedown).options(joinedload(Takedown.release)).where(Takedown.state != TakedownState.DONE)
    if releases is None:
        return list(session.scalars(query.order_by(Takedown.created, Takedown.id)))
    found = [row for chunk in chunked(releases) for row in session.scalars(query.where(Takedown.release_id.in_(chunk)))]
    return sorted(found, key=lambda row: (row.created, row.id))
