"""Points of a space are made around its centre: whoever that is has to agree to what is made in it.

A version that is a point of a space (a sample, mixture, edit or inversion, or whatever is taken from its coordinates)
is its space's mean and so much of the space's axes. So the models a space is made around (``WeightSpace.centres``) are
held against those who refused, for everything that was made in the space or of what was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.references import Encounter
from w2w_registry.errors import RegistryError
from w2w_registry.services.consent.door import Door
from w2w_registry.services.recording import centres
from w2w_registry.services.recording.likeness import Likeness, Print, of_theta
from w2w_registry.services.recording.sources import TRANSLATION
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.registry import Registry


def spaces_of(session: Session, version_ids: Collection[int]) -> dict[int, set[int]]:
    """The spaces that each of these versions, or anything it was made of, was made in as a point: none of one that is
    its own LoRA, wherever it is placed."""
    reach = walks.ancestors(session, version_ids)
    found: dict[int, set[int]] = {}
    for row in walks.made_in(session, reach.depth):
        if row.file is None or TRANSLATION in row.params:
            found.setdefault(row.version_id, set()).update(i for i in (row.space_id, row.took_in) if i is not None)
    parents = reach.parents()
    # A version's inputs were there before it, so their ids are smaller: one pass in order hands everything down.
    for version in sorted(reach.depth):
        above = [found[parent] for parent in parents.get(version, ()) if parent in found]
        if above:
            found[version] = found.get(version, set()).union(*above)
    return {version: found[version] for version in version_ids if version in found}


def refused(registry: Registry, session: Session, door: Door, space_ids: Collection[int]) -> dict[int, Encounter]:
    """Spaces made around somebody who refused: space id -> the gravest encounter."""
    if not door.anybody:
        return {}
    prints: dict[tuple[int, int], list[Print]] = {}
    for row in stored.of_spaces(session, space_ids):
        prints.setdefault((row.space_id, row.part), []).append(Print(row.base, row.question, unpack(row.data)))
    found: dict[int, Encounter] = {}
    for space_id in sorted(set(space_ids)):
        try:
            space = load_space(registry.artifacts, session.get_one(Space, space_id))
        except RegistryError:
            continue  # nothing can be made in a space whose arrays are gone or damaged
        likenesses = [
            _with(of_theta(theta, space.layout), prints.get((space_id, part), ()))
            for part, theta in enumerate(space.centres())
        ]
        met = [one for one in door.meets_centres(likenesses) if one is not None and one.refused]
        if met:
            found[space_id] = max(met, key=lambda one: one.similarity)
    return found


def uncompared(session: Session, door: Door, space_ids: Collection[int]) -> set[int]:
    """Spaces whose centres were not compared by what they draw with those who refused; empty when nobody did."""
    if not door.anybody:
        return set()
    places = door.places
    seen = {
        row.space_id for row in stored.of_spaces(session, space_ids) if not places or (row.base, row.question) in places
    }
    return set(space_ids) - seen


def look(registry: Registry, version_ids: Collection[int], pipeline: str | None = None) -> None:
    """Take what the spaces of these versions are made around, where somebody refused and it was not taken yet."""
    with registry.catalog.read() as session:
        door = Door(registry, session)
        spaces = spaces_of(session, version_ids) if door.anybody else {}
        waiting, places = uncompared(session, door, set().union(*spaces.values())), door.places
    if waiting:
        centres.see(registry, waiting, places, pipeline)


def reasons_of(
    registry: Registry, session: Session, door: Door, spaces: Mapping[int, set[int]]
) -> dict[int, tuple[Encounter, str]]:
    """Versions (of ``spaces_of``) made around somebody who refused: version id -> the encounter, and in which space."""
    met = refused(registry, session, door, set().union(*spaces.values()))
    found: dict[int, tuple[Encounter, str]] = {}
    for version, own in spaces.items():
        worst = max((i for i in own if i in met), key=lambda i: met[i].similarity, default=None)
        if worst is not None:
            found[version] = met[worst], session.get_one(Space, worst).ref
    return found


def _with(likeness: Likeness, prints: Collection[Print]) -> Likeness:
    return Likeness(likeness.known, likeness.sketch, tuple(prints))
