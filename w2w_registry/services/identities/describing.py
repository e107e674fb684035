"""What people say about an identity after it was added: labels, a note, another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from w2w_registry.catalog.identities import find_identity, versions_of
from w2w_registry.catalog.listing import list_versions
from w2w_registry.catalog.lookup import label_rows, labels_of, tags_of
from w2w_registry.catalog.models import Identity, Version
from w2w_registry.catalog.resolve import identity_named, near_names, version_for
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.errors import Conflict, NotFound
from w2w_registry.records import Result, VersionState, check_name
from w2w_registry.services.identities.answers import Tagged
from w2w_registry.services.identities.manage import set_tags, unset_tags
from w2w_registry.services.recording.labels import Label, Labels, match_names, read_labels_csv, set_labels
from w2w_registry.services.registry import Registry

NOTE = "note"
"""The tag a note is kept in."""
_IN_SERVICE: Final = {VersionState.ACTIVE, VersionState.HELD}


@dataclass(frozen=True, eq=False)
class Imported(Result):
    """What a table of labels did: ``updated`` identities, ``unchanged`` ones, and the rows that match none."""

    updated: tuple[str, ...]
    unchanged: tuple[str, ...]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Labelled(Result):
    """A version's labels; ``updated``: those that were changed just now."""

    identity: str
    version: int
    labels: Labels
    updated: list[str]


def label(registry: Registry, name: str, labels: Labels) -> Labelled:
    """Set labels of a version (an identity's newest); what they already say is left alone."""
    with registry.catalog.write(registry.actor) as uow:
        version = version_for(uow.session, name)
        changed = set_labels(uow, version, labels)
        return _labelled(uow, version, changed)


def unlabel(registry: Registry, name: str, names: Sequence[str]) -> Labelled:
    """Take labels of a version away.

    Raises:
        NotFound: a label it does not have.
    """
    with registry.catalog.write(registry.actor) as uow:
        version = version_for(uow.session, name)
        have = label_rows(uow.session, version.id)
        for one in names:
            if one not in have:
                raise NotFound(what="label", name=one, near=near_names(one, list(have)))
            uow.delete(have[one])
        uow.event("label.unset", {"version": version.id})
        return _labelled(uow, version, list(names))


def _labelled(uow: UnitOfWork, version: Version, updated: list[str]) -> Labelled:
    name = uow.session.get_one(Identity, version.identity_id).name
    return Labelled(name, version.number, labels_of(uow.session, [version.id]).get(version.id, {}), updated)


def import_labels(registry: Registry, path: str) -> Imported:
    """Set the labels of a CSV on the newest versions of the identities its rows name.

    A row's name matches an identity's full name, else (where only one does) its last part, in any case and with or
    without a file's ending.

    Raises:
        BadFile: the CSV cannot be used.
    """
    table = read_labels_csv(path)
    with registry.catalog.write(registry.actor) as uow:
        versions = {line.identity.name: line.version for line in list_versions(uow.session)}
        found = match_names(table, versions)
        updated: list[str] = []
        unchanged: list[str] = []
        for row, name in found.items():
            changed = set_labels(uow, versions[name], table[row])
            (updated if changed else unchanged).append(name)
    return Imported(tuple(updated), tuple(unchanged), tuple(row for row in table if row not in found))


def note(registry: Registry, name: str, text: str | None) -> Tagged:
    """Keep a note on an identity (``None``: take it away)."""
    if text is None:
        return unset_tags(registry, name, [NOTE])
    return set_tags(registry, name, [f"{NOTE}={text}"])


def noted(registry: Registry, name: str) -> Tagged:
    """The note on an identity, among its tags, and nothing changed."""
    with registry.catalog.read() as session:
        identity = identity_named(session, check_name(name))
        return Tagged(identity=identity.name, tags=tags_of(session, [identity.id]).get(identity.id, {}))


def rename(registry: Registry, old: str, new: str) -> dict[str, Label]:
    """Give an identity another name; its versions, aliases and history stay.

    Raises:
        NotFound: no such identity. BadName. Conflict: the name is taken; or its versions are blocked or out of service,
            and the name stays theirs: who asks for it would get somebody else.
    """
    with registry.catalog.write(registry.actor) as uow:
        old, new = check_name(old), check_name(new)
        identity = identity_named(uow.session, old)
        taken = find_identity(uow.session, new)
        if taken is not None and taken.id != identity.id:
            raise Conflict(what="identity", name=new, reason="exists; choose another name")
        states = {version.state for version in versions_of(uow.session, identity.id, tuple(VersionState))}
        if VersionState.BLOCKED in states or not states & _IN_SERVICE:
            reason = "is withdrawn or removed, and its name stays its own until it is erased"
            raise Conflict(what="identity", name=old, reason=reason)
        if identity.name != new:
            identity.name = new
            uow.event("identity.rename", {"identity": identity.id})
        return {"identity": new, "was": old}
