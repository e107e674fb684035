"""What a word at a prompt may become."""

from __future__ import annotations

from w2w_registry.catalog.identities import find_identity, names_in_service, versions_of
from w2w_registry.catalog.lookup import aliases_of, subject_ids, tag_keys
from w2w_registry.catalog.resolve import all_spaces, default_space, direction_names
from w2w_registry.records import composed
from w2w_registry.services.identities.bulk import COLLECTION
from w2w_registry.services.registry import Registry


def completions(registry: Registry, noun: str, begun: str, most: int) -> list[str]:
    """At most ``most`` names of this noun (``identity``, ``space``, ``direction``, ``subject``, ``collection``) that
    begin so, sorted. Behind ``@`` an identity's aliases and version numbers."""
    begun = composed(begun)
    with registry.catalog.read() as session:
        if noun == "space":
            found = [ref for space in all_spaces(session) for ref in (space.name, space.ref)]
        elif noun == "subject":
            found = subject_ids(session)
        elif noun == "collection":
            found = [key.removeprefix(COLLECTION) for key in tag_keys(session, COLLECTION)]
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
