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
from w2w_registry.lora import Adapter, Candidate, digests_of, is_embedding, not_plain, read_adapter
from w2w_registry.records import OperationKind, Rank, Told, now
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door, said_uncompared
from w2w_registry.services.identities.about import about
from w2w_registry.services.identities.items import AddRequest, Item, Seen
from w2w_registry.services.identities.naming import own_name
from w2w_registry.services.identities.previews import read_preview
from w2w_registry.services.identities.seen_again import depict
from w2w_registry.services.recording.equivalents import known_adapter, known_model, stored_likeness
from w2w_registry.services.recording.kept import as_kept
from w2w_registry.services.recording.labels import Labels, set_labels
from w2w_registry.services.recording.likeness import UNKNOWN, Likeness, of_adapter
from w2w_registry.services.recording.newcomers import Asked, Newcomer, ask, can_ask, installed
from w2w_registry.services.recording.placement import base_conflict
from w2w_registry.services.recording.versions import Activity, File, Input, NewVersion, record_version, source_file
from w2w_registry.services.registry import Registry
from w2w_registry.space.sketch import Sketch

_STRENGTH = 0.01
"""A change this much stronger is another's setting, and no rounding."""


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
    asked = drawn_by(registry, request, candidates)
    with registry.catalog.write(registry.actor) as uow:
        kind = request.meant_kind
        request.bring(uow)
        gate.require(registry, Use.REGISTER, subjects=request.subjects, kind=kind, session=uow.session)
        recorder = _Recorder(registry, request, uow, labels)
        at = points or {}
        return request.settled(
            uow, [recorder.settle(one, asked.get(one.path, Asked()), at.get(one.path)) for one in candidates]
        )


@dataclass(frozen=True, eq=False)
class _Newcomer:
    """An adapter that was read, with what it is compared by and recorded as."""

    candidate: Candidate
    adapter: Adapter
    digests: tuple[str, ...]
    likeness: Likeness
    drawn: Asked
    point: Point | None

    @classmethod
    def read(cls, candidate: Candidate, drawn: Asked, point: Point | None) -> _Newcomer:
        adapter = read_adapter(candidate.path)
        likeness = replace(of_adapter(adapter), prints=drawn.prints)
        return cls(candidate, adapter, digests_of(adapter), likeness, drawn, point)

    @property
    def file(self) -> File:
        """The file it came in."""
        size = self.adapter.files[0].stat().st_size
        return File(self.adapter.sha256, self.adapter.format, self.adapter.dtype, self.candidate.path.name, size)


class _Recorder:
    """Records adapters one by one, in one transaction."""

    def __init__(self, registry: Registry, request: AddRequest, uow: UnitOfWork, labels: Mapping[str, Labels]) -> None:
        self._registry, self._request, self._uow, self._labels = registry, request, uow, labels
        self._door = Door(registry, uow.session)
        self._started = now()

    def settle(self, candidate: Candidate, drawn: Asked, point: Point | None) -> Item:
        """Record an adapter that is new; say of another that it is there, or why it cannot be recorded."""
        try:
            one = _Newcomer.read(candidate, drawn, point)
            there = known_adapter(self._registry, self._uow.session, one.adapter, one.likeness)
            if there is not None:
                return self._existing(one, *there)
            return self._added(one)
        except RegistryError as error:
            return Item(str(candidate.path), "failed", self._request.prefix + candidate.name, error=error)

    def _existing(self, one: _Newcomer, version: Version, how: str | None) -> Item:
        uow = self._uow
        changed = depict(self._registry, uow, self._request, str(one.candidate.path), version)
        _note_file(uow, version, one.digests[0], one.file)
        changed += set_labels(uow, version, {**self._labels.get(one.candidate.name, {}), **self._request.labels})
        owner = uow.session.get_one(Identity, version.identity_id)
        told = self._request.not_changed(owner.kind, version.base_model)
        if how is None and version.model_digest not in one.digests:  # the same bytes may have other settings
            theirs = stored_likeness(self._registry, uow.session, version).sketch
            told = (*told, *other_strength(one.likeness.sketch, theirs))
        return Item(
            str(one.candidate.path),
            "existing",
            owner.name,
            version.number,
            same_model=how,
            updated=tuple(changed),
            warnings=told,
        )

    def _added(self, one: _Newcomer) -> Item:
        request, door = self._request, self._door
        placed = {} if one.point is None else {one.point.space_id: one.point.coordinates}
        door.hold(one.likeness, placed, path=str(one.candidate.path), model_digest=one.digests[0])
        # Nothing tells whether two models in no common space draw one person: a name alone never does.
        name, told = own_name(self._uow.session, one.candidate, request.prefix, request.subjects, lambda _: None)
        new = self._new_version(name, one)
        activity = self._activity(one, new.base_model)
        near = door.second.near([one.likeness], [placed])[0]
        admission = door.admit(new, activity, near)
        told = (
            *told,
            *door.second.remarks(name, near, admission.held),
            *remarks(one.adapter, request, not_plain(one.adapter)),
        )
        with self._uow.savepoint():
            version = record_version(self._uow, new, activity, admission)
        return Item(
            str(one.candidate.path),
            "added",
            name,
            version.number,
            new.residual,
            warnings=(*told, *said_uncompared(door, one.likeness, one.drawn.why)),
            held=admission.held is not None,
        )

    def _new_version(self, name: str, one: _Newcomer) -> NewVersion:
        request, put = self._request, self._registry.artifacts.put
        picture = read_preview(one.candidate.path, one.adapter.metadata)
        return NewVersion(
            name=name,
            kind=request.meant_kind,
            space_id=None if one.point is None else one.point.space_id,
            model_digest=one.digests[0],
            coordinates=None if one.point is None else one.point.coordinates,
            residual=None if one.point is None else one.point.residual,
            base_model=request.base_model or one.adapter.base_model,
            likeness=one.likeness,
            base_revision=one.adapter.base_revision,
            artifact_digest=put(as_kept(one.adapter)),
            preview_digest=None if picture is None else put(picture),
            manifest_digest=request.manifest,
            file=one.file,
            subjects=request.subjects,
            labels={
                **about(one.candidate.path, one.adapter.told),
                **self._labels.get(one.candidate.name, {}),
                **request.labels,
            },
            adapter=None if one.adapter.kind == "LoRA" and one.adapter.exact else one.adapter.kind,
        )

    def _activity(self, one: _Newcomer, base_model: str | None) -> Activity:
        origin = self._request.origin
        found = one.point or Point(0, np.zeros(0, np.float32), 0.0, {}, (), {})
        return Activity(
            OperationKind.IMPORT if origin is None else OperationKind.PULL,
            self._started,
            params=one.adapter.summary() | named_base(one.adapter.base_model, base_model) | dict(found.params),
            inputs=[
                *([] if origin is None else [origin]),
                Input("lora", InputKind.FILE, digest=one.adapter.sha256, ref=one.candidate.path.name),
                *found.inputs,
            ],
            models=({} if base_model is None else {"base": base_model}) | dict(found.models),
        )


def named_base(named: str | None, recorded: str | None) -> dict[str, str]:
    """For the record of how a version came in: the base model its file names, where that is not the recorded one."""
    return {} if named is None or named == recorded else {"named_base_model": named}


def drawn_by(registry: Registry, request: AddRequest, candidates: Sequence[Candidate]) -> dict[Path, Asked]:
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
            known = known_adapter(registry, session, adapter, of_adapter(adapter))
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
                items.append(Item(path, "failed", name, error=unregistered(path, first.candidate.path)))
                continue
            known = there[0]
            file = File(copy.sha256, copy.format, copy.dtype, copy.candidate.path.name, copy.size)
            _note_file(uow, known, copy.digests[0], file)
            owner = uow.session.get_one(Identity, known.identity_id)
            how = said_copy(copy, first)
            given = {**labels.get(copy.candidate.name, {}), **request.labels}
            changed = set_labels(uow, known, given)
            told = (*request.not_changed(owner.kind, known.base_model), *other_strength(copy.sketch, first.sketch))
            items.append(
                Item(path, "existing", owner.name, known.number, same_model=how, updated=tuple(changed), warnings=told)
            )
    return items


def unregistered(copy: str, first: str | Path) -> BadLora:
    """What is said of a copy whose model could not be registered."""
    return BadLora(path=copy, reason=f"a copy of {first}, which could not be registered")


def said_copy(copy: Seen, first: Seen) -> str:
    """How one file of a folder is known to be the model of another there."""
    resaved = "" if copy.sha256 == first.sha256 else f", re-saved ({copy.format}, {copy.dtype})"
    return f"the same model as {first.candidate.path}{resaved}"


def other_strength(mine: Sketch | None, theirs: Sketch | None) -> tuple[Told, ...]:
    """What to tell of a file whose tensors are there already, under settings that make another strength of them."""
    if mine is None or theirs is None or not theirs.norm > 0 or abs(mine.norm / theirs.norm - 1) <= _STRENGTH:
        return ()
    times = f"its settings (alpha) make its change {mine.norm / theirs.norm:.3g} times as strong as"
    return (Told(f"the same tensors are there already; {times} what is registered, which stays", Rank.CONTRADICTION),)


def _note_file(uow: UnitOfWork, version: Version, digest: str, file: File) -> None:
    """Note one more file of a version, whose model has this digest; nothing when it is noted."""
    if not came_in(uow.session, version.id, file.sha256):
        uow.add(source_file(version, digest, file, uow.now()))
        uow.event("file.add", {"version": version.id}, file=file.sha256)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s'[: number > 1]}"


def remarks(adapter: Adapter, request: AddRequest, not_plain: str | None) -> list[str]:
    """What a person should be told of an adapter, gravest first. ``not_plain``: why it is no plain LoRA, if it is
    none."""
    found = list(adapter.remarks)
    conflict = base_conflict(adapter.base_model, request.base_model)
    if conflict is not None:
        found.insert(0, conflict)
    if adapter.idle:
        found.append("it changes nothing: all its factors' products are zero (a training that never began?)")
    embeddings = sum(map(is_embedding, adapter.unread))
    if embeddings:
        found.append(f"it brings {_count(embeddings, 'textual-inversion embedding')}, kept in its file")
    if len(adapter.unread) > embeddings:
        unread = _count(len(adapter.unread) - embeddings, "tensor")
        found.append(f"it has {unread} of a kind this release does not know, kept in its file")
    if not_plain is not None and adapter.kind == "LoRA" and not adapter.unread:
        found.append(f"it goes to no weight space: {not_plain}")
    return found
