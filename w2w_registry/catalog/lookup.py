"""What is known about many versions, or many digests, at once: one query per few hundred, never one per row."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Alias, Coordinates, Identity, Label, SourceFile, Tag, Version, VersionSubject
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.subjects import Subject, SubjectState
from w2w_registry.records import IdentityRef, VersionState


def versions_by_id(session: Session, ids: Iterable[int]) -> dict[int, Version]:
    """Versions by id; ids that are not there are left out."""
    return {v.id: v for chunk in chunked(ids) for v in session.scalars(select(Version).where(Version.id.in_(chunk)))}


def space_refs(session: Session, ids: Iterable[int]) -> dict[int, str]:
    """``name@number`` of each space id."""
    columns = select(Space.id, Space.name, Space.number)
    rows = (row for chunk in chunked(ids) for row in session.execute(columns.where(Space.id.in_(chunk))))
    return {row.id: f"{row.name}@{row.number}" for row in rows}


@once
def refs_of(session: Session, ids: Iterable[int]) -> dict[int, IdentityRef]:
    """``name@number`` of each version id."""
    return {
        row.id: IdentityRef(row.name, row.number)
        for chunk in chunked(ids)
        for row in session.execute(
            select(Version.id, Identity.name, Version.number).join(Version.identity).where(Version.id.in_(chunk))
        )
    }


def version_ids_of(session: Session, identity_id: int) -> list[int]:
    """Ids of an identity's versions in any state, by number."""
    query = select(Version.id).where(Version.identity_id == identity_id).order_by(Version.number)
    return list(session.scalars(query))


@once
def states_of(session: Session, ids: Iterable[int]) -> list[tuple[IdentityRef, VersionState]]:
    """``name@number`` and state of each version id, by id."""
    rows = (
        row
        for chunk in chunked(sorted(set(ids)))
        for row in session.execute(
            select(Identity.name, Version.number, Version.state)
            .join(Version.identity)
            .where(Version.id.in_(chunk))
            .order_by(Version.id)
        )
    )
    return [(IdentityRef(name, number), state) for name, number, state in rows]


@once
def labels_of(session: Session, ids: Iterable[int]) -> dict[int, dict[str, float | str]]:
    """Labels of each version id that has some."""
    found: dict[int, dict[str, float | str]] = {}
    for chunk in chunked(ids):
        columns = select(Label.version_id, Label.name, Label.number, Label.text)
        for version, name, number, text in session.execute(
            columns.where(Label.version_id.in_(chunk)).order_by(Label.name)
        ):
            value = number if number is not None else text
            assert value is not None
            found.setdefault(version, {})[name] = value
    return found


def tags_of(session: Session, identity_ids: Iterable[int]) -> dict[int, dict[str, str]]:
    """Tags of each identity id that has some."""
    found: dict[int, dict[str, str]] = {}
    for chunk in chunked(identity_ids):
        for row in session.scalars(select(Tag).where(Tag.identity_id.in_(chunk)).order_by(Tag.key)):
            found.setdefault(row.identity_id, {})[row.key] = row.value
    return found


def tag_keys(session: Session, prefix: str = "") -> list[str]:
    """Every key that some identity is tagged with and that begins so, sorted."""
    query = select(Tag.key).where(Tag.key.startswith(prefix, autoescape=True)).distinct()
    return sorted(session.scalars(query))


def subject_ids(session: Session) -> list[str]:
    """Every subject that was not erased, sorted."""
    return sorted(session.scalars(select(Subject.id).where(Subject.state != SubjectState.ERASED)))


def aliases_of(session: Session, identity_ids: Iterable[int]) -> dict[int, dict[str, int]]:
    """Alias -> version number, of each identity id that has some."""
    found: dict[int, dict[str, int]] = {}
    for chunk in chunked(identity_ids):
        query = select(Alias.identity_id, Alias.name, Version.number).join(Alias.version)
        for identity, name, number in session.execute(query.where(Alias.identity_id.in_(chunk)).order_by(Alias.name)):
            found.setdefault(identity, {})[name] = number
    return found


@once
def subjects_of(session: Session, ids: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Subjects each version depicts by its own account (not those of its ancestors)."""
    found: dict[int, tuple[str, ...]] = {}
    for chunk in chunked(ids):
        query = select(VersionSubject).where(VersionSubject.version_id.in_(chunk)).order_by(VersionSubject.subject_id)
        for row in session.scalars(query):
            found[row.version_id] = (*found.get(row.version_id, ()), row.subject_id)
    return found


def subjects_named(session: Session, name: str) -> set[str]:
    """Subjects that the versions in service of one identity depict by their own account."""
    query = (
        select(VersionSubject.subject_id)
        .join(Version, Version.id == VersionSubject.version_id)
        .join(Identity, Identity.id == Version.identity_id)
        .where(Identity.name == name, Version.state.in_(PRESENT))
    )
    return set(session.scalars(query))


def versions_of_subject(session: Session, subject: str) -> list[int]:
    """Ids of the versions that depict a subject by their own account, whatever their state."""
    query = select(VersionSubject.version_id).where(VersionSubject.subject_id == subject)
    return list(session.scalars(query.order_by(VersionSubject.version_id)))


def version_at(
    session: Session, name: str, model_digest: str, space_id: int, coordinates_digest: str
) -> Version | None:
    """The version of identity ``name`` that is this model at this very point of the space; the oldest."""
    return session.scalars(
        select(Version)
        .join(Version.identity)
        .join(Coordinates, Coordinates.version_id == Version.id)
        .where(
            Identity.name == name,
            Version.model_digest == model_digest,
            Coordinates.space_id == space_id,
            Coordinates.digest == coordinates_digest,
            Version.state.in_(PRESENT),
        )
        .order_by(Version.id)
        .limit(1)
    ).first()


def versions_by_model(session: Session, digests: Iterable[str]) -> dict[str, list[int]]:
    """Model digest -> ids of the versions that are this model, oldest first."""
    found: dict[str, list[int]] = {}
    for chunk in chunked(digests):
        query = select(Version.model_digest, Version.id).where(Version.model_digest.in_(chunk))
        for digest, version in session.execute(query.where(Version.state.in_(PRESENT)).order_by(Version.id)):
            found.setdefault(digest, []).append(version)
    return found


def same_digests(session: Session) -> list[list[int]]:
    """Versions in the registry whose digests are the same, in groups, the oldest first."""
    twice = (
        select(Version.model_digest)
        .where(Version.state.in_(PRESENT))
        .group_by(Version.model_digest)
        .having(func.count() > 1)
    )
    query = select(Version.model_digest, Version.id).where(Version.model_digest.in_(twice), Version.state.in_(PRESENT))
    found: dict[str, list[int]] = {}
    for digest, version in session.execute(query.order_by(Version.id)):
        found.setdefault(digest, []).append(version)
    return list(found.values())


def taken_names(session: Session, names: Iterable[str]) -> dict[str, int]:
    """Of these names, those an identity has (removed or not) -> its id."""
    return {
        row.name: row.id
        for chunk in chunked(names)
        for row in session.execute(select(Identity.name, Identity.id).where(Identity.name.in_(chunk)))
    }


def identities_named(session: Session, names: Iterable[str]) -> dict[str, tuple[Identity, int]]:
    """Identities by name, each with the number of its newest version (0 for none); names nobody has are left out."""
    found: dict[str, tuple[Identity, int]] = {}
    for chunk in chunked(sorted(names)):
        query = (
            select(Identity, func.coalesce(func.max(Version.number), 0))
            .outerjoin(Version, Version.identity_id == Identity.id)
            .where(Identity.name.in_(chunk))
            .group_by(Identity.id)
        )
        found.update((identity.name, (identity, newest)) for identity, newest in session.execute(query))
    return found


def known_version(session: Session, sha256: str, digests: Iterable[str]) -> Version | None:
    """The version that came in this very file, or is this model."""
    by_file = select(Version).join(SourceFile, SourceFile.version_id == Version.id).where(SourceFile.sha256 == sha256)
    for query in (by_file, select(Version).where(Version.model_digest.in_(tuple(digests)))):
        found = session.scalars(query.where(Version.state.in_(PRESENT)).order_by(Version.id)).first()
        if found is not None:
            return found
    return None


def known_among(session: Session, sha256s: Iterable[str], digests: Iterable[str]) -> tuple[set[str], set[str]]:
    """Which of these files versions in service or blocked came in, and which of these models they are."""
    files: set[str] = set()
    models: set[str] = set()
    for chunk in chunked(sha256s):
        query = select(SourceFile.sha256).join(Version, Version.id == SourceFile.version_id)
        files.update(session.scalars(query.where(SourceFile.sha256.in_(chunk), Version.state.in_(PRESENT))))
    for chunk in chunked(digests):
        query = select(Version.model_digest)
        models.update(session.scalars(query.where(Version.model_digest.in_(chunk), Version.state.in_(PRESENT))))
    return files, models


def versions_of_model(session: Session, digests: Iterable[str]) -> list[Version]:
    """Every version in service that has one of these model digests, the oldest first."""
    query = select(Version).where(Version.model_digest.in_(tuple(digests)), Version.state.in_(PRESENT))
    return list(session.scalars(query.order_by(Version.id)))


def came_in(session: Session, version_id: int, sha256: str) -> bool:
    """Whether a version came in this very file."""
    held = select(SourceFile.id).where(SourceFile.version_id == version_id, SourceFile.sha256 == sha256)
    return session.scalar(held) is not None


def label_rows(session: Session, version_id: int) -> dict[str, Label]:
    """A version's labels as rows, by name."""
    return {row.name: row for row in session.scalars(select(Label).where(Label.version_id == version_id))}


def coordinates_rows(session: Session, ids: Iterable[int]) -> dict[int, list[Coordinates]]:
    """Coordinates of versions in every space they have some in; versions without any are left out."""
    found: dict[int, list[Coordinates]] = {}
    for chunk in chunked(ids):
        for row in session.scalars(select(Coordinates).where(Coordinates.version_id.in_(chunk))):
            found.setdefault(row.version_id, []).append(row)
    return found
