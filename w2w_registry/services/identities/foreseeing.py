"""A plan keeps its word: what the door will say of the adapters that would be added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import identities_named
from w2w_registry.catalog.models import Identity
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Use
from w2w_registry.errors import RegistryError
from w2w_registry.lora import Candidate, digests_of, read_adapter
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door, said_uncompared
from w2w_registry.services.identities import ingest
from w2w_registry.services.identities.about import about
from w2w_registry.services.identities.items import AddRequest, Item, Seen
from w2w_registry.services.identities.naming import own_name, say_lookalikes
from w2w_registry.services.identities.outcome import with_beside
from w2w_registry.services.identities.planned import Plan, repeats
from w2w_registry.services.identities.unplaced import drawn_by, unregistered
from w2w_registry.services.recording.labels import Labels, changed_labels
from w2w_registry.services.recording.likeness import of_adapter
from w2w_registry.services.recording.newcomers import Asked
from w2w_registry.services.recording.versions import NewVersion
from w2w_registry.services.registry import Registry

CHUNK = 256


def asked(registry: Registry, request: AddRequest, planned: Plan) -> Plan:
    """The plan with what the door says of each newcomer (``foreseeing``): what ``perform`` will meet there.

    Raises:
        ConsentDenied: the subjects' consent does not allow registering them.
    """
    seen = planned.survey.seen
    items = {item.path: item for item in planned.items}
    homeless: list[Candidate] = []
    for group in planned.groups:
        new = [one.candidate for one in group.members if items[str(one.candidate.path)].status == "added"]
        if group.space is None or group.fit:
            homeless += new
        elif new:
            placed = replace(request, name=None, space=group.space, candidates=new, dry_run=True)
            items |= {item.path: item for item in with_beside(ingest.add(registry, placed).items)}
    alone = [items[str(one.path)] for one in homeless]
    items |= {item.path: item for item in at_the_door(registry, request, alone, homeless)}
    own: dict[int, Labels] = {}
    for i, first in repeats(seen).items():
        copy, original = items[str(seen[i].candidate.path)], items[str(seen[first].candidate.path)]
        if original.status != "existing":
            given = _given(request, planned, seen[i])
            if given and first not in own:
                told = read_adapter(seen[first].candidate.path).told
                own[first] = {**about(seen[first].candidate.path, told), **_given(request, planned, seen[first])}
            before = own.get(first, {})
            changed = tuple(name for name, value in given.items() if before.get(name) != value)
            own[first] = {**before, **given}
            items[copy.path] = _shares_fate(replace(copy, updated=changed), original)
    with registry.catalog.read() as session:
        foreseen = [_relabelled(session, request, planned, one, items[str(one.candidate.path)]) for one in seen]
    return replace(planned, items=tuple(say_lookalikes(registry, foreseen)))


def _given(request: AddRequest, planned: Plan, one: Seen) -> Labels:
    """The labels the command gives an adapter, by name or as all."""
    return {**planned.survey.labels.get(one.candidate.name, {}), **request.labels}


def _relabelled(session: Session, request: AddRequest, planned: Plan, one: Seen, item: Item) -> Item:
    """An item that is there already with what the command would change of it."""
    labels = _given(request, planned, one)
    if item.status != "existing" or not (labels or request.kind or request.base_model):
        return item
    try:
        version = version_for(session, f"{item.identity}@{item.version}")
    except RegistryError:  # a copy of one that is yet to be added
        return item
    told = request.not_changed(session.get_one(Identity, version.identity_id).kind, version.base_model)
    changed = changed_labels(session, version.id, labels)
    return replace(item, updated=tuple(changed), warnings=(*told, *item.warnings))


def _shares_fate(copy: Item, original: Item) -> Item:
    if original.error is not None:
        return Item(copy.path, "failed", copy.identity, error=unregistered(copy.path, original.path))
    return replace(copy, identity=original.identity, version=original.version)


def at_the_door(
    registry: Registry,
    request: AddRequest,
    items: Sequence[Item],
    candidates: Sequence[Candidate],
    space_id: int | None = None,
) -> tuple[Item, ...]:
    """The items, those that would be added as the door would have them: let in, held, or failed with its reason.

    Every one is compared by its weights and, where its base model is at hand, by what it draws; nothing is kept of it.
    ``space_id``: where they are to get coordinates that are not known yet.

    Raises:
        ConsentDenied: the subjects' consent does not allow registering them.
    """
    by_path = {str(candidate.path): candidate for candidate in candidates}
    new = [item for item in items if item.status == "added"]
    found: dict[str, Item] = {}
    given: Counter[str] = Counter()
    for start in range(0, len(new), CHUNK):
        part = new[start : start + CHUNK]
        drawn = drawn_by(registry, request, [by_path[item.path] for item in part])
        with registry.catalog.read() as session:
            kind, subjects = request.meant_kind, request.subjects
            gate.require(registry, Use.REGISTER, subjects=subjects, kind=kind, session=session)
            door = Door(registry, session)
            for item in part:
                candidate = by_path[item.path]
                asked = drawn.get(candidate.path, Asked())
                said = _said(session, door, request, item, candidate, asked, given, space_id)
                found[item.path] = said
                given.update([str(said.identity)] if said.status == "added" else ())
    return tuple(found.get(item.path, item) for item in items)


def _said(
    session: Session,
    door: Door,
    request: AddRequest,
    item: Item,
    candidate: Candidate,
    drawn: Asked,
    given: Counter[str],
    space_id: int | None,
) -> Item:
    try:
        adapter = read_adapter(candidate.path)
        likeness = replace(of_adapter(adapter), prints=drawn.prints)
        digest = digests_of(adapter)[0]
        door.hold(likeness, {}, path=item.path, model_digest=digest)
        (near,) = door.second.near([likeness], [{}])
        name, renamed = own_name(session, candidate, request.prefix, request.subjects, lambda _: None, given)
        base = request.base_model or adapter.base_model
        kind, subjects = request.meant_kind, request.subjects
        held = door.admit(
            NewVersion(name, kind, space_id, digest, None, base, likeness, subjects=subjects), None, near
        ).held
    except RegistryError as error:
        return replace(item, status="failed", error=error)
    _, newest = identities_named(session, {name}).get(name, (None, 0))
    told = (*door.second.remarks(name, near, held), *renamed, *said_uncompared(door, likeness, drawn.why))
    return replace(
        item, identity=name, version=newest + 1 + given[name], warnings=(*told, *item.warnings), held=held is not None
    )
