"""Subjects as a recording names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import subjects_of
from w2w_registry.catalog.models import Subject
from w2w_registry.catalog.resolve import subject_like
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.errors import Conflict
from w2w_registry.records import check_name

if TYPE_CHECKING:  # commands that name a subject load no numpy
    import numpy as np
    from numpy.typing import NDArray


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


def people_of(session: Session, versions: NDArray[np.int64], identities: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each row's person: identities that depict one subject are one."""
    import numpy as np

    parent: dict[Any, Any] = {}

    def root(x: Any) -> Any:
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    subjects = subjects_of(session, set(versions.tolist()))
    for version, identity in zip(versions.tolist(), identities.tolist(), strict=True):
        own = root(("identity", identity))
        said = subjects.get(version, ())
        if len(said) == 1:
            parent[own] = root(("subject", next(iter(said))))
    roots = [root(("identity", i)) for i in identities.tolist()]
    numbers = {r: n for n, r in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[r] for r in roots], np.int64)
