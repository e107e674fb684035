"""Identities, their versions, aliases and tags, as rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Alias, Identity, Tag, Version
from w2w_registry.catalog.holds import Hold
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.spaces import Space
from w2w_registry.records import Kind, VersionState

_STANDING: Final = (VersionState.ACTIVE, VersionState.BLOCKED)


class Told(NamedTuple):
    """A version with what a list tells of it."""

    version: Version
    operation: str
    space: Space | None


class Named(NamedTuple):
    """Which identity and number a version is."""

    identity_id: int
    name: str
    number: int
    kind: Kind


def find_identity(session: Session, name: str) -> Identity | None:
    """The identity of exactly this name, removed or not."""
    return session.scalar(select(Identity).where(Identity.name == name))


def names_beginning(session: Session, prefix: str) -> set[str]:
    """Names of identities, removed ones too, that begin so."""
    return set(session.scalars(select(Identity.name).where(Identity.name.startswith(prefix, autoescape=True))))


def versions_of(session: Session, identity_id: int, states: Collection[VersionState] = PRESENT) -> list[Version]:
    """An identity's versions in these states, by number."""
    query = select(Version).where(Version.identity_id == identity_id, Version.state.in_(states))
    return list(session.scalars(query.order_by(Version.number)))


def told_versions(session: Session, identity_id: int) -> list[Told]:
    """Every version of an identity, by number, with the kind of its operation and its space."""
    rows = session.execute(
        select(Version, Operation.kind, Space)
        .join(Operation, Operation.id == Version.operation_id)
        .outerjoin(Space, Space.id == Version.space_id)
        .where(Version.identity_id == identity_id)
        .order_by(Version.number)
    )
    return [Told(*row) for row in rows]


@once
def named(session: Session, version_ids: Iterable[int]) -> dict[int, Named]:
    """Version id -> which identity and number it is."""
    return {
        version: Named(identity, name, number, kind)
        for chunk in chunked(version_ids)
        for version, identity, name, number, kind in session.execute(
            select(Version.id, Identity.id, Identity.name, Version.number, Identity.kind)
            .join(Version.identity)
            .where(Version.id.in_(chunk))
        )
    }


def identity_names(session: Session, ids: Iterable[int]) -> dict[int, str]:
    """Identity id -> name."""
    return {
        identity: name
        for chunk in chunked(ids)
        for identity, name in session.execute(select(Identity.id, Identity.name).where(Identity.id.in_(chunk)))
    }


@once
def versions_named(session: Session, names: Iterable[str]) -> dict[tuple[str, int], Version]:
    """(name, number) -> version, for every version of these identities."""
    return {
        (name, version.number): version
        for chunk in chunked(names)
        for version, name in session.execute(
            select(Version, Identity.name).join(Version.identity).where(Identity.name.in_(chunk))
        )
    }


def versions_under(session: Session, names: Iterable[str]) -> dict[str, list[int]]:
    """Ids of the versions that stand for the identities of these names, ascending: those in service or blocked; of an
    identity that has none, those that were removed, whose name it stays, but for those that were held till then. Names
    that nobody has are left out."""
    found: dict[str, dict[bool, list[int]]] = {}
    for chunk in chunked(sorted(names)):
        open_hold = exists().where(Hold.version_id == Version.id, Hold.resolved.is_(None))
        query = (
            select(Identity.name, Version.id, Version.state)
            .join(Version, Version.identity_id == Identity.id)
            .where(
                Identity.name.in_(chunk),
                or_(Version.state.in_(_STANDING), and_(Version.state == VersionState.REMOVED, ~open_hold)),
            )
        )
        for name, version, state in session.execute(query.order_by(Version.id)):
            found.setdefault(name, {}).setdefault(state in _STANDING, []).append(version)
    return {name: there.get(True) or there[False] for name, there in found.items()}


def newest_previews(session: Session, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Name -> the identity's newest version that has a preview, by id, and the preview's digest."""
    found: dict[str, tuple[int, str]] = {}
    for chunk in chunked(names):
        query = (
            select(Identity.name, Version.id, Version.preview_digest)
            .join(Version, Version.identity_id == Identity.id)
            .where(Identity.name.in_(chunk), Version.preview_digest.is_not(None))
            .order_by(Version.number)
        )
        rows = session.execute(query)
        found.update((name, (version, digest)) for name, version, digest in rows if digest is not None)
    return found


def versions_with_names(session: Session, states: Collection[VersionState] = PRESENT) -> list[tuple[Version, str]]:
    """Every version in these states with its identity's name, oldest first."""
    query = select(Version, Identity.name).join(Version.identity).where(Version.state.in_(states))
    return [(version, name) for version, name in session.execute(query.order_by(Version.id))]


def first_between(session: Session, low: int, high: int) -> int | None:
    """The smallest version id in a range."""
    return session.scalar(select(func.min(Version.id)).where(Version.id >= low, Version.id <= high))


def find_alias(session: Session, identity_id: int, name: str) -> Alias | None:
    """What an alias of an identity means now."""
    return session.scalar(select(Alias).where(Alias.identity_id == identity_id, Alias.name == name))


def aliases_meaning(session: Session, version_ids: Iterable[int]) -> list[Alias]:
    """Aliases that mean one of these versions."""
    return [a for c in chunked(version_ids) for a in session.scalars(select(Alias).where(Alias.version_id.in_(c)))]


def tag_rows(session: Session, identity_id: int) -> dict[str, Tag]:
    """An identity's tags by key."""
    return {tag.key: tag for tag in session.scalars(select(Tag).where(Tag.identity_id == identity_id))}


def names_in_service(session: Session) -> list[str]:
    """The name of every identity that was not removed."""
    return list(session.scalars(select(Identity.name).where(Identity.removed.is_(None))))


def names_with(session: Session, part: str, most: int) -> list[str]:
    """At most ``most`` names of identities in service with ``part`` in them, in any case, the shortest first."""
    found = [name for name in names_in_service(session) if part.casefold() in name.casefold()]
    return sorted(found, key=lambda name: (len(name), name))[:most]
