"""Adapters that no weight space holds become versions all the same: kept as the file they are, with what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.lookup import came_in
from w2w_registry.catalog.models import Identity, InputKind, Version
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadLora, RegistryError
from w2w_registry.lora import Adapter, Candidate, lora_of, model_digests, not_plain, read_adapter
from w2w_registry.records import OperationKind, now
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door, said_uncompared
from w2w_registry.services.identities.about import about
from w2w_registry.services.identities.items import AddRequest, Item, Seen
from w2w_registry.services.identities.naming import own_name
from w2w_registry.services.identities.previews import read_preview
from w2w_registry.services.recording.equivalents import known_model
from w2w_registry.services.recording.kept import as_kept
from w2w_registry.services.recording.labels import Labels, set_labels
from w2w_registry.services.recording.likeness import UNKNOWN, Likeness, of_lora
from w2w_registry.services.recording.newcomers import Asked, Newcomer, ask, can_ask, installed
from w2w_registry.services.recording.placement import base_conflict
from w2w_registry.services.recording.versions import Activity, File, Input, NewVersion, record_version, source_file
from w2w_registry.services.registry import Registry


def digests_of(adapter: Adapter) -> tuple[str, ...]:
    """Digests by which the same adapter is known again: exact, and as a rounded copy would have them. A plain LoRA has
    those it would have in a space of its own layout."""
    if not_plain(adapter) is None:
        lora = lora_of(adapter)
        if lora.alpha is not None and not lora.ignored:
            return tuple(model_digests(lora.theta(), lora.layout()))
    return (adapter.digest,)


def likeness_of(adapter: Adapter) -> Likeness:
    """What the door compares of an adapter: a plain LoRA's ΔW; nothing of what depends on the base model's weights."""
    return of_lora(lora_of(adapter)) if not_plain(adapter) is None else UNKNOWN


@dataclass(frozen=True, eq=False)
class Point:
    """Where an adapter was put in a space (row id) that its weights do not fit: coordinates (k,), what they leave of
    it, and what of how that was found belongs into the operation."""

    space_id: int
    coordinates: NDArray[np.float32]
    residual: float
    params: Mapping[str, Any]
    inputs: tuple[Input, ...]
    models: Mapping[str, Any]


def add_unplaced(
    registry: Registry,
    request: AddRequest,
    candidates: Sequence[Candidate],
    labels: Mapping[str, Labels],
    points: Mapping[Path, Point] | None = None,
) -> list[Item]:
    """Record adapters in no weight space, or at ``points`` by path that were found for them; one transaction for all.
    What fails is said and the others go on."""
    kind = request.meant_kind
    started = now()
    items: list[Item] = []
    asked = _asked(registry, request, candidates)
    with registry.catalog.write(registry.actor) as uow:
        gate.require(registry, Use.REGISTER, subjects=request.subjects, kind=kind, session=uow.session)
        door = Door(registry, uow.session)
        for candidate in candidates:
            name = request.prefix + candidate.name
            try:
                adapter = read_adapter(candidate.path)
                digests = digests_of(adapter)
                drawn = asked.get(candidate.path, Asked())
                file = File(
                    adapter.sha256,
                    adapter.format,
                    adapter.dtype,
                    candidate.path.name,
                    adapter.files[0].stat().st_size,
                )
                likeness = replace(likeness_of(adapter), prints=drawn.prints)
                there = known_model(registry, uow.session, adapter.sha256, digests, likeness)
                if there is not None:
                    known, how = there
                    held = came_in(uow.session, known.id, adapter.sha256)
                    if not held:
                        uow.add(source_file(known, digests[0], file, uow.now()))
                        uow.event("file.add", {"version": known.id}, file=adapter.sha256)
                    owner = uow.session.get_one(Identity, known.identity_id)
                    given = {**labels.get(candidate.name, {}), **request.labels}
                    changed = tuple(set_labels(uow, known, given))
                    items.append(
                        Item(
                            str(candidate.path),
                            "existing",
                            owner.name,
                            known.number,
                            same_model=how,
                            updated=changed,
                            warnings=request.of_kind(owner.kind),
                        )
                    )
                    continue
                point = (points or {}).get(candidate.path)
                at = {} if point is None else {point.space_id: point.coordinates}
                door.hold(likeness, at, path=str(candidate.path), model_digest=digests[0])
                # Nothing tells whether two models in no common space draw one person: a name alone never does.
                name, told = own_name(uow.session, candidate, request.prefix, request.subjects, lambda _: None)
                picture = read_preview(candidate.path)
                new = NewVersion(
                    name=name,
                    kind=kind,
                    space_id=None if point is None else point.space_id,
                    model_digest=digests[0],
                    coordinates=None if point is None else point.coordinates,
                    residual=None if point is None else point.residual,
                    base_model=request.base_model or adapter.base_model,
                    likeness=likeness,
                    base_revision=adapter.base_revision,
                    artifact_digest=registry.artifacts.put(as_kept(adapter)),
                    preview_digest=None if picture is None else registry.artifacts.put(picture),
                    file=file,
                    subjects=request.subjects,
                    labels={
                        **about(candidate.path, adapter.told),
                        **labels.get(candidate.name, {}),
                        **request.labels,
                    },
                    adapter=None if adapter.kind == "LoRA" and adapter.exact else adapter.kind,
                )
                activity = Activity(
                    OperationKind.IMPORT if request.origin is None else OperationKind.PULL,
                    started,
                    params=adapter.summary()
                    | named_base(adapter.base_model, new.base_model)
                    | ({} if point is None else dict(point.params)),
                    inputs=[
                        *([] if request.origin is None else [request.origin]),
                        Input("lora", InputKind.FILE, digest=adapter.sha256, ref=candidate.path.name),
                        *(() if point is None else point.inputs),
                    ],
                    models=({} if new.base_model is None else {"base": new.base_model})
                    | ({} if point is None else dict(point.models)),
                )
                placed = {} if new.space_id is None or new.coordinates is None else {new.space_id: new.coordinates}
                near = door.second.near([likeness], [placed])[0]
                admission = door.admit(new, activity, near)
                told = (*told, *door.second.remarks(name, near, admission.held))
                with uow.savepoint():
                    version = record_version(uow, new, activity, admission)
            except RegistryError as error:
                items.append(Item(str(candidate.path), "failed", name, error=error))
                continue
            items.append(
                Item(
                    str(candidate.path),
                    "added",
                    name,
                    version.number,
                    None if point is None else point.residual,
                    warnings=(*told, *remarks(adapter, request), *said_uncompared(door, likeness, drawn.why)),
                    held=admission.held is not None,
                )
            )
    return items


def named_base(named: str | None, recorded: str | None) -> dict[str, str]:
    """For the record of how a version came in: the base model its file names, where that is not the recorded one."""
    return {} if named is None or named == recorded else {"named_base_model": named}


def _asked(registry: Registry, request: AddRequest, candidates: Sequence[Candidate]) -> dict[Path, Asked]:
    """What adapters draw, by path, where their base model is at hand and they are not there already."""
    new: dict[Path, Newcomer] = {}
    for candidate in candidates if installed() else ():
        try:
            adapter = read_adapter(candidate.path)
        except RegistryError:
            continue  # said when it is to be recorded
        base = request.base_model or adapter.base_model
        if not can_ask(registry, base, request.pipeline):
            continue
        with registry.catalog.read() as session:
            known = known_model(registry, session, adapter.sha256, digests_of(adapter), likeness_of(adapter))
        if known is None:
            new[candidate.path] = Newcomer(base, candidate.path)
    return dict(zip(new, ask(registry, list(new.values()), request.pipeline), strict=True))


def add_copies(
    registry: Registry,
    request: AddRequest,
    copies: Sequence[tuple[Seen, Seen]],
    labels: Mapping[str, Labels],
) -> list[Item]:
    """Note further copies of models of the same folder: (the copy, the one that was registered).

    A copy whose model could not be registered shares its fate and is said to.
    """
    items: list[Item] = []
    if not copies:
        return items
    with registry.catalog.write(registry.actor) as uow:
        for copy, first in copies:
            path, name = str(copy.candidate.path), request.prefix + copy.candidate.name
            there = known_model(registry, uow.session, first.sha256, first.digests, UNKNOWN)
            if there is None:
                error = BadLora(path=path, reason=f"a copy of {first.candidate.path}, which could not be registered")
                items.append(Item(path, "failed", name, error=error))
                continue
            known = there[0]
            _note_file(uow, known, copy)
            owner = uow.session.get_one(Identity, known.identity_id)
            how = None if copy.sha256 == first.sha256 else f"re-saved ({copy.format}, {copy.dtype})"
            given = {**labels.get(copy.candidate.name, {}), **request.labels}
            changed = set_labels(uow, known, given)
            told = request.of_kind(owner.kind)
            items.append(
                Item(path, "existing", owner.name, known.number, same_model=how, updated=tuple(changed), warnings=told)
            )
    return items


def _note_file(uow: UnitOfWork, version: Version, one: Seen) -> None:
    if not came_in(uow.session, version.id, one.sha256):
        file = File(one.sha256, one.format, one.dtype, one.candidate.path.name, one.size)
        uow.add(source_file(version, one.digests[0], file, uow.now()))
        uow.event("file.add", {"version": version.id}, file=one.sha256)


def remarks(adapter: Adapter, request: AddRequest) -> list[str]:
    """What a person should be told of an adapter, gravest first."""
    found = list(adapter.remarks)
    conflict = base_conflict(adapter.base_model, request.base_model)
    if conflict is not None:
        found.insert(0, conflict)
    if adapter.unread:
        found.append(f"{len(adapter.unread)} of its tensors are of a kind this release does not know; kept as they are")
    return found
