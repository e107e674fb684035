"""One change to many identities: those that were named, those a ``where`` finds, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import find_identity, names_in_service, tag_rows, versions_of
from w2w_registry.catalog.listing import list_versions
from w2w_registry.catalog.lookup import aliases_of, subject_ids, tag_keys, tags_of
from w2w_registry.catalog.models import Identity, Tag, Version
from w2w_registry.catalog.paging import label_names
from w2w_registry.catalog.resolve import all_spaces, default_space, direction_names, near_names, version_for
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.where import parse_where
from w2w_registry.errors import NotFound, UsageError
from w2w_registry.records import Result, check_name, composed
from w2w_registry.services.identities.answers import IdentityRow
from w2w_registry.services.identities.browsing import COLUMNS, browse, matching_names
from w2w_registry.services.recording.labels import Labels, set_labels
from w2w_registry.services.registry import Registry

RATING: Final = "rating"
FAVOURITE: Final = "favourite"
HIGHEST: Final = 5
COLLECTION: Final = "collection."
"""How the key of a tag begins that puts an identity into a collection."""


def chosen(session: Session, names: Sequence[str], where: str | None) -> list[Version]:
    """The versions meant: each name's (a pattern's newest ones), or the newest that ``where`` finds.

    Raises:
        UsageError: nothing was said, or both. NotFound: a name nobody has.
    """
    if names and where is not None:
        raise UsageError(reason="give names or [[where]], not both")
    if not names and where is None:
        raise UsageError(reason="say which identities", hint='by name, or with [[where]] ("kind = person")')
    if where is not None:
        return [line.version for line in list_versions(session, parse_where(where))]
    found: list[Version] = []
    for name in names:
        if any(mark in name for mark in "*?["):
            found += [version_for(session, one) for one in matching_names(session, [name])]
        else:
            found.append(version_for(session, name))
    return list({version.id: version for version in found}.values())


def label_many(registry: Registry, names: Sequence[str], labels: Labels, *, where: str | None = None) -> Changed:
    """Set labels of many versions; what they already say is left alone."""
    return _each(registry, names, where, lambda uow, version: bool(set_labels(uow, version, labels)))


def tag_many(
    registry: Registry,
    names: Sequence[str],
    tags: Mapping[str, str],
    *,
    unset: Iterable[str] = (),
    where: str | None = None,
) -> Changed:
    """Set and take away tags of many identities; what is as it should be already is left alone."""
    wanted = {check_name(key, "tag"): value for key, value in tags.items()}
    gone = [check_name(key, "tag") for key in unset]

    def change(uow: UnitOfWork, version: Version) -> bool:
        have = tag_rows(uow.session, version.identity_id)
        new = {key: value for key, value in wanted.items() if key not in have or have[key].value != value}
        old = [key for key in gone if key in have]
        for key, value in new.items():
            if key in have:
                have[key].value = value
            else:
                uow.add(Tag(identity_id=version.identity_id, key=key, value=value))
        for key in old:
            uow.delete(have[key])
        if new:
            uow.event("tag.set", {"identity": version.identity_id})
        if old:
            uow.event("tag.unset", {"identity": version.identity_id})
        return bool(new or old)

    return _each(registry, names, where, change)


@dataclass(frozen=True, eq=False)
class Changed(Result):
    """Identities that a change of many changed, and those that were as it asks."""

    changed: list[str]
    unchanged: list[str]


def _each(
    registry: Registry, names: Sequence[str], where: str | None, change: Callable[[UnitOfWork, Version], bool]
) -> Changed:
    changed: list[str] = []
    unchanged: list[str] = []
    with registry.catalog.write(registry.actor) as uow:
        for version in chosen(uow.session, names, where):
            name = uow.session.get_one(Identity, version.identity_id).name
            (changed if change(uow, version) else unchanged).append(name)
    return Changed(changed=changed, unchanged=unchanged)


# -- ratings, favourites, collections: tags that commands know -----------------------------------------
def rate(
    registry: Registry,
    names: Sequence[str],
    rating: float | None,
    *,
    favourite: bool | None = None,
    where: str | None = None,
) -> Changed:
    """Give a rating from 0 to 5 and mark or unmark a favourite, as the tags ``rating`` and ``favourite``, which
    compare as numbers.

    Raises:
        UsageError: a rating outside that, or nothing to do.
    """
    if rating is None and favourite is None:
        raise UsageError(reason="nothing to do", hint="say [[stars]] 4, of 0 to 5, or [[favourite]]")
    if rating is not None and not 0 <= rating <= HIGHEST:
        raise UsageError(reason=f"a rating is a number from 0 to {HIGHEST}")
    tags = {} if rating is None else {RATING: f"{rating:g}"}
    if favourite:
        tags[FAVOURITE] = "1"
    return tag_many(registry, names, tags, unset=[FAVOURITE] if favourite is False else [], where=where)


def collect(
    registry: Registry, collection: str, names: Sequence[str], *, where: str | None = None, out: bool = False
) -> Changed:
    """Put identities into a collection, or take them ``out``.

    Raises:
        NotFound: ``out`` of a collection nobody is in.
    """
    if out:
        members(registry, collection)
    key = COLLECTION + check_name(collection, "collection")
    return tag_many(registry, names, {} if out else {key: "1"}, unset=[key] if out else [], where=where)


@dataclass(frozen=True, eq=False)
class CollectionRow(Result):
    """A collection, and how many are in it."""

    collection: str
    identities: int


def collections(registry: Registry) -> list[CollectionRow]:
    """Every collection and how many identities are in it, by name."""
    found: dict[str, list[str]] = {}
    with registry.catalog.read() as session:
        lines = list_versions(session)
        tags = tags_of(session, [line.identity.id for line in lines])
        for line in lines:
            for key in tags.get(line.identity.id, {}):
                if key.startswith(COLLECTION):
                    found.setdefault(key.removeprefix(COLLECTION), []).append(line.identity.name)
    return [CollectionRow(collection=name, identities=len(members)) for name, members in sorted(found.items())]


def members(registry: Registry, collection: str) -> list[IdentityRow]:
    """The identities of a collection, as a list shows them.

    Raises:
        NotFound: a collection nobody is in.
    """
    found = browse(registry, where=where_of(collection))
    if not found:
        near = near_names(collection, [one.collection for one in collections(registry)])
        raise NotFound(what="collection", name=collection, near=near)
    return found


def where_of(collection: str) -> str:
    """The expression that finds a collection's members."""
    return f'tag."{COLLECTION}{check_name(collection, "collection")}" is not null'


def completions(registry: Registry, noun: str, begun: str, most: int) -> list[str]:
    """At most ``most`` names of this noun (``identity``, ``space``, ``direction``, ``subject``, ``collection``,
    ``column``) that begin so, sorted. Behind ``@`` an identity's aliases and version numbers; behind a comma one more
    column."""
    begun = composed(begun)
    with registry.catalog.read() as session:
        if noun == "space":
            found = [ref for space in all_spaces(session) for ref in (space.name, space.ref)]
        elif noun == "subject":
            found = subject_ids(session)
        elif noun == "collection":
            found = [key.removeprefix(COLLECTION) for key in tag_keys(session, COLLECTION)]
        elif noun == "column":
            before, comma, _ = begun.rpartition(",")
            named = (*(f"label.{n}" for n in label_names(session)), *(f"tag.{key}" for key in tag_keys(session)))
            found = [f"{before}{comma}{n}" for n in (*COLUMNS, *named) if n not in before.split(",")]
        elif noun == "direction":
            space = default_space(session)
            found = [] if space is None else direction_names(session, space)
        else:
            name, at, _ = begun.partition("@")
            identity = find_identity(session, name) if at else None
            if identity is not None:
                aliases = aliases_of(session, [identity.id]).get(identity.id, {})
                found = [f"{name}@{alias}" for alias in aliases]
                found += [f"{name}@{version.number}" for version in versions_of(session, identity.id)]
            else:
                found = names_in_service(session)
    return sorted({text for text in found if text.startswith(begun)})[:most]
