"""Whom versions depict: by their own account, or through what they were made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import CTE, ColumnElement, and_, exists, func, literal, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Identity, Version, VersionSubject
from w2w_registry.catalog.former import Then
from w2w_registry.catalog.lineage import descendant_ids, descendants
from w2w_registry.catalog.lookup import subjects_of, versions_of_subject
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.operations import Operation, OperationInput
from w2w_registry.catalog.rows import chunked
from w2w_registry.records import IdentityRef, Kind, OperationKind, VersionState


class Likeness(NamedTuple):
    """Somebody upstream of ``root``: ``subject`` None when nobody is named; ``through``: the version that brings them
    in, ``derived`` when that is an ancestor."""

    root: int
    subject: str | None
    derived: bool
    through: str


class Depiction(NamedTuple):
    """A version that depicts a subject, ``derived`` when only through what it was made of; ``files``: its artifacts."""

    version_id: int
    ref: str
    derived: bool
    state: VersionState
    files: tuple[str, ...]


def depicting_ids(session: Session, subject: str) -> set[int]:
    """Ids of every version that depicts a subject, in any state, derivatives included."""
    return descendant_ids(session, versions_of_subject(session, subject))


def depicting_each(session: Session, subjects: Iterable[str]) -> dict[str, set[int]]:
    """``depicting_ids`` of many subjects at once."""
    own: dict[str, set[int]] = {subject: set() for subject in subjects}
    for chunk in chunked(sorted(own)):
        query = select(VersionSubject.subject_id, VersionSubject.version_id)
        for subject, version in session.execute(query.where(VersionSubject.subject_id.in_(chunk))):
            own[subject].add(version)
    children: dict[int, list[int]] = {}
    for child, parent in descendants(session, sorted(set().union(*own.values()))).edges:
        children.setdefault(parent, []).append(child)
    for versions in own.values():
        stack = list(versions)
        while stack:
            further = [child for child in children.get(stack.pop(), ()) if child not in versions]
            versions.update(further)
            stack += further
    return own


def depictions(session: Session, subject: str) -> list[Depiction]:
    """Every version that depicts a subject, in any state, derivatives included."""
    own = select(VersionSubject.version_id).where(VersionSubject.subject_id == subject)
    start = select(Version.id.label("version_id"), literal(0).label("derived")).where(Version.id.in_(own))
    down = start.cte("down", recursive=True)
    down = down.union(
        select(Version.id, literal(1))
        .join(OperationInput, OperationInput.operation_id == Version.operation_id)
        .join(down, OperationInput.version_id == down.c.version_id)
    )
    reached = (
        select(down.c.version_id, func.min(down.c.derived).label("derived")).group_by(down.c.version_id).subquery()
    )
    rows = session.execute(
        select(
            reached.c.version_id,
            reached.c.derived,
            Identity.name,
            Version.number,
            Version.state,
            Version.artifact_digest,
            Version.preview_digest,
            Version.manifest_digest,
        )
        .join(Version, Version.id == reached.c.version_id)
        .join(Identity, Identity.id == Version.identity_id)
        .order_by(reached.c.version_id)
    )
    return [
        Depiction(i, str(IdentityRef(name, number)), bool(derived), state, tuple(d for d in files if d is not None))
        for i, derived, name, number, state, *files in rows
    ]


@once
def likenesses(session: Session, version_ids: Iterable[int], kinds: Collection[Kind]) -> list[Likeness]:
    """Everybody depicted by these versions or their ancestors; of ``kinds`` somebody is, named or not."""
    found: list[Likeness] = []
    for chunk in chunked(version_ids):
        up = _ancestors(chunk)
        named = (
            select(up.c.root, VersionSubject.subject_id, up.c.derived, Identity.name, Version.number)
            .join(VersionSubject, VersionSubject.version_id == up.c.version_id)
            .join(Version, Version.id == up.c.version_id)
            .join(Identity, Identity.id == Version.identity_id)
        )
        unnamed = (
            select(up.c.root, literal(None), up.c.derived, Identity.name, Version.number)
            .join(Version, Version.id == up.c.version_id)
            .join(Identity, Identity.id == Version.identity_id)
            .join(Operation, Operation.id == Version.operation_id)
            .where(_nobody_named(kinds))
        )
        for query in (named, unnamed):
            found += [
                Likeness(root, subject, bool(derived), str(IdentityRef(name, number)))
                for root, subject, derived, name, number in session.execute(query)
            ]
    return found


@once
def own_likenesses(
    session: Session, version_ids: Iterable[int], kinds: Collection[Kind], made_of: Iterable[int] = ()
) -> dict[int, set[str | None]]:
    """Version id -> whom it depicts by its own account (None: somebody unnamed), for every one that exists.

    ``made_of``: those among them that are known to have others behind them. They exist, and nobody enters with them, so
    that of a long ancestry only its ends are looked at.
    """
    found: dict[int, set[str | None]] = {version: set() for version in made_of}
    ids = set(version_ids)
    for chunk in chunked(ids - found.keys()):
        found.update((i, set()) for i in session.scalars(select(Version.id).where(Version.id.in_(chunk))))
        unnamed = select(Version.id).join(Identity).join(Operation).where(Version.id.in_(chunk), _nobody_named(kinds))
        for version in session.scalars(unnamed):
            found[version].add(None)
    for chunk in chunked(ids):
        named = select(VersionSubject.version_id, VersionSubject.subject_id).where(VersionSubject.version_id.in_(chunk))
        for version, subject in session.execute(named):
            found[version].add(subject)
    return found


def own_likenesses_at(
    session: Session, version_ids: Iterable[int], kinds: Collection[Kind], then: Then
) -> dict[int, set[str | None]]:
    """As ``own_likenesses``, of a moment."""
    ids = sorted(set(version_ids))
    subjects = then.subjects(subjects_of(session, ids), ids)
    found: dict[int, set[str | None]] = {}
    for chunk in chunked(ids):
        query = select(Version.id, Identity.id, Identity.kind, _enters_here()).join(Identity).join(Operation)
        rows = session.execute(query.where(Version.id.in_(chunk))).tuples().all()
        was = then.kinds(identity for _, identity, _, _ in rows)
        for version, identity, kind, enters in rows:
            unnamed = enters and Kind(was.get(identity, kind)) in kinds and not subjects.get(version)
            found[version] = {None} if unnamed else set(subjects.get(version, ()))
    return found


def _ancestors(version_ids: Sequence[int]) -> CTE:
    """Recursive SQL: (root, version_id, derived) for the given versions (derived 0) and all their ancestors (1)."""
    base = select(Version.id.label("root"), Version.id.label("version_id"), literal(0).label("derived")).where(
        Version.id.in_(version_ids)
    )
    up = base.cte("up", recursive=True)
    # UNION, not UNION ALL: a version reached twice is followed once, so that diamonds do not multiply
    return up.union(
        select(up.c.root, OperationInput.version_id, literal(1))
        .join(Version, Version.id == up.c.version_id)
        .join(OperationInput, OperationInput.operation_id == Version.operation_id)
        .where(OperationInput.version_id.is_not(None))
    )


def _nobody_named(kinds: Collection[Kind]) -> ColumnElement[bool]:
    """SQL over version, identity and operation: somebody is depicted and nobody named.

    That is where a likeness enters the graph (no version behind it) without a subject. Sampled identities depict
    nobody.
    """
    named = exists().where(VersionSubject.version_id == Version.id)
    return and_(Identity.kind.in_(sorted(kinds)), ~named, _enters_here())


def _enters_here() -> ColumnElement[bool]:
    """SQL over version and operation: whom a version depicts was not there before, nor drawn by lot."""
    made_of = exists().where(
        and_(OperationInput.operation_id == Version.operation_id, OperationInput.version_id.is_not(None))
    )
    return and_(Operation.kind != OperationKind.SAMPLE.value, ~made_of)
