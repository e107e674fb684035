"""Subjects as a recording names them."""

from __future__ import annotations

from w2w_registry.catalog.models import Subject
from w2w_registry.catalog.resolve import subject_like
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.errors import Conflict
from w2w_registry.records import check_name


def ensure_subject(uow: UnitOfWork, subject_id: str, *, kind: str = "person") -> bool:
    """Add the subject unless it is there; True when it was added.

    Raises:
        BadName. Conflict: another subject's id differs in upper and lower case alone.
    """
    subject_id = check_name(subject_id, "subject")
    other = subject_like(uow.session, subject_id)
    if other == subject_id:
        return False
    if other is not None:
        raise Conflict(what="subject", name=subject_id, reason=f"differs from {other} in case alone; say {other}")
    uow.add(Subject(id=subject_id, kind=kind, created=uow.now()))
    uow.event("subject.add", {"subject": subject_id}, kind=kind)
    return True
