"""What the log says by number, said by name: which versions, identities and spaces events are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from w2w_registry.catalog.identities import identity_names
from w2w_registry.catalog.lookup import refs_of, space_refs
from w2w_registry.services.audit.log import EventRow
from w2w_registry.services.registry import Registry

Names = Mapping[tuple[str, int], str]


def names_in(registry: Registry, events: Iterable[EventRow]) -> Names:
    """(``version``, ``identity`` or ``space``, id) -> its reference or name, of all that ``events`` are about and is
    there."""
    about: dict[str, set[int]] = {"version": set(), "identity": set(), "space": set()}
    for event in events:
        for kind, ids in event.objects.items():
            if kind in about:
                about[kind].update(i for i in numbers(ids) if isinstance(i, int))
    with registry.catalog.read() as session:
        versions = {("version", i): str(ref) for i, ref in refs_of(session, sorted(about["version"])).items()}
        identities = {("identity", i): name for i, name in identity_names(session, sorted(about["identity"])).items()}
        spaces = {("space", i): ref for i, ref in space_refs(session, sorted(about["space"])).items()}
    return versions | identities | spaces


def numbers(ids: Any) -> list[Any]:
    """What an event is about, one thing or several, as a list."""
    return list(ids) if isinstance(ids, (list, tuple)) else [ids]
