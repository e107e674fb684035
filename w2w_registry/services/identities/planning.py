"""Where what was found goes: which weight space, which spaces would be fitted, what is there twice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.resolve import all_spaces
from w2w_registry.errors import RegistryError
from w2w_registry.lora import read_adapter
from w2w_registry.records import UNKNOWN_BASE, IdentityRef
from w2w_registry.services.identities import ingest
from w2w_registry.services.identities.items import Item, Seen
from w2w_registry.services.identities.naming import say_lookalikes
from w2w_registry.services.identities.outcome import with_beside
from w2w_registry.services.identities.planned import Group, Plan, Survey, repeats
from w2w_registry.services.identities.unplaced import other_strength, said_copy
from w2w_registry.services.recording.equivalents import known_adapter
from w2w_registry.services.recording.likeness import of_adapter
from w2w_registry.services.recording.novelty import Arrival, plainly_new
from w2w_registry.services.recording.placement import hint_agrees, same_model_id
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.fitset import no_common_start
from w2w_registry.services.spaces.members import LEAST
from w2w_registry.space.gauge import obstacles
from w2w_registry.space.layout import Layout

ENOUGH = LEAST
"""So many different LoRAs of one layout and base model make a space worth fitting; from 40 on it is calibrated."""


def plan(registry: Registry | None, found: Survey, *, fit: bool) -> Plan:
    """Which space each adapter goes to. ``registry``: None where there is none yet. ``fit``: whether to plan a space
    for groups that have none and are large enough."""
    spaces: list[Space] = []
    known: dict[int, tuple[IdentityRef, str | None]] = {}
    if registry is not None:
        with registry.catalog.read() as session:
            spaces = all_spaces(session)
            known = _known(registry, session, found.seen)
    repeated = repeats(found.seen)
    by_place: dict[str | None, list[int]] = defaultdict(list)
    homeless: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, one in enumerate(found.seen):
        space = _fitting(one, spaces)
        if space is not None:
            by_place[space.ref].append(i)
        elif one.layout is None or not fit:
            by_place[None].append(i)
        else:
            homeless[one.layout.digest, (one.base_model or one.base_hint or UNKNOWN_BASE).lower()].append(i)
    groups: list[Group] = []
    unfitted: dict[str, RegistryError] = {}
    names = {space.name for space in spaces}

    def group(indices: Sequence[int], **more: Any) -> Group:
        members = tuple(found.seen[i] for i in indices)
        bases = {m.base_model for m in members if m.base_model}
        base = bases.pop() if len(bases) == 1 else None
        return Group(members, base, new=sum(i not in repeated for i in indices), **more)

    for indices in homeless.values():
        different = sum(i not in repeated for i in indices)
        if different >= ENOUGH:
            name = _space_name(found.seen[indices[0]], names)
            names.add(name)
            against = _against(found.seen, [i for i in indices if i not in repeated])
            if against is None:
                groups.append(group(indices, space=f"{name}@1", fit=True))
            else:
                unfitted[f"{name}@1"] = against
                by_place[None] += indices
        else:
            by_place[None] += indices
    for ref, indices in by_place.items():
        bases: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i in sorted(indices):  # what is in no space is told by base model, or by what part of one it changes
            one = found.seen[i]
            base = one.base_model or one.base_hint or ""
            bases[("", "") if ref else (base, "" if base else one.part)].append(i)
        groups += [group(some, space=ref) for some in bases.values()]
    items = [_foreseen(found, i, known, repeated) for i in range(len(found.seen))]
    for i in by_place[None]:  # in a space other things are said
        if items[i].status == "added":
            items[i] = replace(items[i], warnings=(*items[i].warnings, *found.seen[i].remarks))
    if registry is None:
        items = say_lookalikes(None, items)
    return Plan(found, tuple(groups), registry is None, with_beside(items), unfitted)


def _against(seen: Sequence[Seen], indices: Sequence[int]) -> RegistryError | None:
    """What keeps these from making a space."""
    layout = seen[indices[0]].layout
    return None if layout is None else no_common_start([seen[i].candidate.path for i in indices], layout)


def _known(registry: Registry, session: Session, seen: Sequence[Seen]) -> dict[int, tuple[IdentityRef, str | None]]:
    """Those that the registry holds: their place → what they are there, and how they are known."""
    found: dict[int, tuple[int, str | None]] = {}
    firsts = list({one.model: i for i, one in reversed(list(enumerate(seen)))}.values())
    for start in range(0, len(firsts), ingest.CHUNK):
        part = firsts[start : start + ingest.CHUNK]
        arrivals = [Arrival(seen[i].sha256, seen[i].digests, seen[i].sketch) for i in part]
        for i, new in zip(part, plainly_new(session, arrivals), strict=True):
            if new:
                continue
            try:
                adapter = read_adapter(seen[i].candidate.path)
                known = known_adapter(registry, session, adapter, of_adapter(adapter))
            except RegistryError:  # it was readable a moment ago: the run says what became of it
                continue
            if known is not None:
                found[i] = known[0].id, known[1]
    refs = refs_of(session, (version for version, _ in found.values()))
    return {i: (refs[version], how) for i, (version, how) in found.items()}


def _foreseen(
    found: Survey, i: int, known: Mapping[int, tuple[IdentityRef, str | None]], repeated: Mapping[int, int]
) -> Item:
    one, first = found.seen[i], found.seen[repeated.get(i, i)]
    path, name = str(one.candidate.path), found.prefix + first.candidate.name
    there = known.get(i if one is first else repeated[i], known.get(i))
    ref, how = (IdentityRef(name, 1), None) if there is None else there
    if one is not first:
        told = other_strength(one.sketch, first.sketch)
        return Item(path, "existing", ref.name, ref.number, same_model=said_copy(one, first), warnings=told)
    if there is not None:
        return Item(path, "existing", ref.name, ref.number, same_model=how)
    return Item(path, "added", name, 1)


def _fitting(one: Seen, spaces: Sequence[Space]) -> Space | None:
    """The newest space whose layers and base model these are."""
    if one.layout is None:
        return None
    shapes = {tensor.key: tensor.shape for tensor in one.layout.tensors}
    # A checkpoint's name is no id, but where it is like one of the spaces' models that space is asked first.
    newest_first = list(reversed(spaces))
    newest_first.sort(key=lambda s: not hint_agrees(one.base_hint, s.base_model))
    for space in newest_first:
        if one.base_model is not None and not same_model_id(one.base_model, space.base_model):
            continue
        if not obstacles(shapes, Layout.from_json(space.layout)):
            return space
    return None


def _space_name(one: Seen, taken: set[str]) -> str:
    base = (one.base_model or one.base_hint or "loras").rstrip("/").rsplit("/", 1)[-1]
    stem = re.sub(r"[^\w.-]+", "-", base).strip("._-").lower() or "loras"
    name = stem if not one.ranks else f"{stem}-r{one.ranks[-1]}"
    number = 1
    while (f"{name}-{number}" if number > 1 else name) in taken:
        number += 1
    return f"{name}-{number}" if number > 1 else name
