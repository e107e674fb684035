"""Notes of unfinished long work."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from w2w_registry.catalog.event_log import Job


def jobs_of_kind(session: Session, kind: str) -> list[Job]:
    """Every note of a kind of work, oldest first."""
    return list(session.scalars(select(Job).where(Job.kind == kind).order_by(Job.updated, Job.id)))
