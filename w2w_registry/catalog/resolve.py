"""From what people write (``acme/alice@production``, ``faces@1``) to rows, with suggestions when there is none."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

from sqlalchemy import LargeBinary, Select, cast, func, or_, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Alias, AliasChange, Identity, Version
from w2w_registry.catalog.former import new_name
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.spaces import Direction, Space, SpaceState
from w2w_registry.catalog.subjects import Subject
from w2w_registry.errors import NotFound
from w2w_registry.records import IdentityRef, SpaceRef, VersionState, composed, folded

PRESENT = (VersionState.ACTIVE, VersionState.HELD, VersionState.BLOCKED)
"""States of versions that are in the registry, served or not."""

_ALL_NAMES = 5000  # up to this many names, suggestions compare them all; beyond, alphabetical neighbours


@once
def identity_named(session: Session, name: str) -> Identity:
    """The identity of exactly this name, removed or not.

    Raises:
        NotFound: with near names.
    """
    found = session.scalar(select(Identity).where(Identity.name == name))
    if found is None:
        new = new_name(session, name)
        if new is not None:
            raise NotFound(what="identity", name=name, near=(new,), reason=f"it was renamed, and is now {new}")
        raise NotFound(what="identity", name=name, near=near_identities(session, name))
    return found


@once
def version_for(session: Session, ref: IdentityRef | str, *, any_state: bool = False) -> Version:
    """The version a reference means: its number, its alias, or the newest active one (else the newest held or
    blocked one).

    The caller looks at ``state``: a blocked version is found, not allowed. Removed and erased ones only with
    ``any_state``.

    Raises:
        NotFound: what = identity, version or alias, with near names where there are some.
    """
    if isinstance(ref, str):
        ref = IdentityRef.parse(ref)
    identity = identity_named(session, ref.name)
    states = tuple(VersionState) if any_state else PRESENT
    query = select(Version).where(Version.identity_id == identity.id, Version.state.in_(states))
    if ref.alias is not None:
        query = query.join(Alias, Alias.version_id == Version.id).where(
            Alias.identity_id == identity.id, Alias.name == ref.alias
        )
    elif ref.number is not None:
        query = query.where(Version.number == ref.number)
    else:
        query = query.order_by(Version.state != VersionState.ACTIVE, Version.number.desc()).limit(1)
    found = session.scalar(query)
    if found is not None:
        return found
    if ref.alias is not None:
        names = session.scalars(select(Alias.name).where(Alias.identity_id == identity.id)).all()
        raise NotFound(what="alias", name=str(ref), near=tuple(f"{ref.name}@{n}" for n in near_names(ref.alias, names)))
    if ref.number is not None:
        numbers = session.scalars(
            select(Version.number)
            .where(Version.identity_id == identity.id, Version.state.in_(states))
            .order_by(Version.number.desc())
            .limit(3)
        ).all()
        raise NotFound(what="version", name=str(ref), near=tuple(f"{ref.name}@{n}" for n in numbers))
    raise NotFound(what="identity", name=ref.name, near=near_identities(session, ref.name))


def space_for(session: Session, ref: SpaceRef | str | None) -> Space:
    """The space a reference means: ``faces@1``, ``faces`` (its newest active version, else the newest retired one), or
    None (the newest of all).

    Raises:
        NotFound: with near names. BadName: not a reference.
    """
    if ref is None:
        newest = default_space(session)
        if newest is None:
            raise NotFound(what="space", name="")
        return newest
    if isinstance(ref, str):
        ref = SpaceRef.parse(ref)
    query = select(Space).where(Space.name == ref.name)
    if ref.number is not None:
        query = query.where(Space.number == ref.number)
    found = session.scalar(query.order_by(Space.state != SpaceState.ACTIVE, Space.number.desc()).limit(1))
    if found is None:
        refs = [space.ref for space in session.scalars(select(Space).order_by(Space.name, Space.number.desc()))]
        raise NotFound(what="space", name=str(ref), near=near_names(str(ref), refs))
    return found


def default_space(session: Session) -> Space | None:
    """The newest active space, None when there is none yet."""
    return session.scalar(select(Space).where(Space.state == SpaceState.ACTIVE).order_by(Space.id.desc()).limit(1))


def direction_named(session: Session, space: Space, name: str) -> Direction:
    """The direction of this name in the space.

    Raises:
        NotFound: with near names.
    """
    name = composed(name)
    found = session.scalar(select(Direction).where(Direction.space_id == space.id, Direction.name == name))
    if found is None:
        names = session.scalars(select(Direction.name).where(Direction.space_id == space.id)).all()
        raise NotFound(what="direction", name=name, near=near_names(name, names))
    return found


def direction_names(session: Session, space: Space) -> list[str]:
    """Names of a space's directions."""
    return list(session.scalars(select(Direction.name).where(Direction.space_id == space.id).order_by(Direction.name)))


def subject_like(session: Session, subject: str) -> str | None:
    """The id of the subject meant: this one, but for upper and lower case and how accents are typed; None: nobody."""
    subject = composed(subject)
    if session.get(Subject, subject) is not None:
        return subject
    # The database folds ASCII alone: ids with more in them are compared here.
    more = func.length(cast(Subject.id, LargeBinary)) != func.length(Subject.id)
    rows = session.scalars(select(Subject.id).where(or_(func.lower(Subject.id) == folded(subject).lower(), more)))
    return next((found for found in rows if folded(found) == folded(subject)), None)


def subject_by_id(session: Session, subject: str) -> Subject:
    """The subject with this pseudonymous id, in upper or lower case. No suggestions: one person's id is not shown for a
    slip in another's.

    Raises:
        NotFound.
    """
    known = subject_like(session, subject)
    if known is None:
        raise NotFound(what="subject", name=subject)
    return session.get_one(Subject, known)


@dataclass(frozen=True)
class AliasPeriod:
    """What an alias meant from ``start`` until ``end`` (None: still). ``number`` None: it was unset."""

    alias: str
    number: int | None
    version_id: int | None
    start: datetime
    end: datetime | None


def alias_history(session: Session, identity: Identity, alias: str | None = None) -> list[AliasPeriod]:
    """Everything an identity's aliases ever meant, by alias, oldest first."""
    query = (
        select(AliasChange, Version.number)
        .outerjoin(Version, Version.id == AliasChange.version_id)
        .where(AliasChange.identity_id == identity.id)
        .order_by(AliasChange.alias, AliasChange.at, AliasChange.id)
    )
    if alias is not None:
        query = query.where(AliasChange.alias == alias)
    rows = session.execute(query).all()
    return [
        AliasPeriod(
            alias=change.alias,
            number=number,
            version_id=change.version_id,
            start=change.at,
            end=after[0].at if after is not None and after[0].alias == change.alias else None,
        )
        for (change, number), after in zip_longest(rows, rows[1:])
    ]


def alias_at(session: Session, identity: Identity, alias: str, at: datetime) -> Version | None:
    """The version an alias meant at a moment, whatever became of it; None when it was not set then."""
    change = session.scalar(
        select(AliasChange)
        .where(AliasChange.identity_id == identity.id, AliasChange.alias == alias, AliasChange.at <= at)
        .order_by(AliasChange.at.desc(), AliasChange.id.desc())
        .limit(1)
    )
    return None if change is None or change.version_id is None else session.get(Version, change.version_id)


def near_identities(session: Session, name: str) -> tuple[str, ...]:
    """Names of identities in service that look like ``name``, nearest first, at most three."""
    return near_names(name, _candidates(session, name))


def _candidates(session: Session, name: str) -> Sequence[str]:
    names: Select[Any] = select(Identity.name).where(Identity.removed.is_(None), Identity.name != name)
    if (session.scalar(select(func.count()).select_from(Identity)) or 0) <= _ALL_NAMES:
        return session.scalars(names).all()
    after = session.scalars(names.where(Identity.name > name).order_by(Identity.name).limit(_ALL_NAMES // 10)).all()
    before = session.scalars(
        names.where(Identity.name < name).order_by(Identity.name.desc()).limit(_ALL_NAMES // 10)
    ).all()
    return [*before, *after]


def near_names(name: str, names: Sequence[str]) -> tuple[str, ...]:
    folded: dict[str, str] = {}
    for candidate in sorted(names):
        folded.setdefault(candidate.casefold(), candidate)
    return tuple(folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6))


def all_spaces(session: Session) -> list[Space]:
    """Every active space, the oldest first."""
    return list(session.scalars(select(Space).where(Space.state == SpaceState.ACTIVE).order_by(Space.id)))
