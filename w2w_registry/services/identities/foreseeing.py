"""A plan keeps its word: what the door will say of the adapters that would be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from w2w_registry.consent.records import Use
from w2w_registry.errors import RegistryError
from w2w_registry.lora import Candidate, digests_of, read_adapter
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door, said_uncompared
from w2w_registry.services.identities.items import AddRequest, Item
from w2w_registry.services.identities.unplaced import drawn_by
from w2w_registry.services.recording.likeness import of_adapter
from w2w_registry.services.recording.newcomers import Asked
from w2w_registry.services.registry import Registry

CHUNK = 256


def at_the_door(
    registry: Registry, request: AddRequest, items: Sequence[Item], candidates: Sequence[Candidate]
) -> tuple[Item, ...]:
    """The items, those that would be added as the door would have them: let in, held, or failed with its reason.

    Every one is compared by its weights and, where its base model is at hand, by what it draws; nothing is kept of it.

    Raises:
        ConsentDenied: the subjects' consent does not allow registering them.
    """
    by_path = {str(candidate.path): candidate for candidate in candidates}
    new = [item for item in items if item.status == "added"]
    found: dict[str, Item] = {}
    for start in range(0, len(new), CHUNK):
        part = new[start : start + CHUNK]
        drawn = drawn_by(registry, request, [by_path[item.path] for item in part])
        with registry.catalog.read() as session:
            kind, subjects = request.meant_kind, request.subjects
            gate.require(registry, Use.REGISTER, subjects=subjects, kind=kind, session=session)
            door = Door(registry, session)
            for item in part:
                candidate = by_path[item.path]
                found[item.path] = _said(door, request, item, candidate, drawn.get(candidate.path, Asked()))
    return tuple(found.get(item.path, item) for item in items)


def _said(door: Door, request: AddRequest, item: Item, candidate: Candidate, drawn: Asked) -> Item:
    try:
        adapter = read_adapter(candidate.path)
        likeness = replace(of_adapter(adapter), prints=drawn.prints)
        door.hold(likeness, {}, path=item.path, model_digest=digests_of(adapter)[0])
        (near,) = door.second.near([likeness], [{}])
    except RegistryError as error:
        return replace(item, status="failed", error=error)
    name = str(item.identity)
    held = door.second.told(name, request.meant_kind, request.subjects, None, near)
    told = (*door.second.remarks(name, near, held), *said_uncompared(door, likeness, drawn.why))
    return replace(item, warnings=(*item.warnings, *told), held=held is not None)
