"""``add``: LoRA files become identities with coordinates.

Read and place each file, find out which are already there, then record the new ones chunk by chunk, each chunk one
transaction. A file that cannot be used is reported and the others go on; a crash leaves whole versions or none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import identities_named, known_among
from w2w_registry.catalog.models import (
    Identity,
    InputKind,
    Version,
)
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import last_seq
from w2w_registry.consent.records import Use
from w2w_registry.errors import ForeignStart, RegistryError
from w2w_registry.lora import (
    Candidate,
    read_adapter,
    read_lora,
    same_model,
)
from w2w_registry.lora.metadata import told_by
from w2w_registry.lora.write import written_in
from w2w_registry.records import UNKNOWN_BASE, OperationKind, now
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door, said_uncompared
from w2w_registry.services.consent.second_look import Near
from w2w_registry.services.identities.about import about
from w2w_registry.services.identities.incoming import Incoming, file_of, plain, read, strangers
from w2w_registry.services.identities.items import AddReport, AddRequest, Item, Meant, meant
from w2w_registry.services.identities.naming import own_name
from w2w_registry.services.identities.previews import read_preview
from w2w_registry.services.identities.seen_again import seen_again
from w2w_registry.services.identities.unplaced import add_unplaced, named_base
from w2w_registry.services.recording.equivalents import known_whole
from w2w_registry.services.recording.garbage import seldom_collected
from w2w_registry.services.recording.kept import as_kept
from w2w_registry.services.recording.labels import Labels
from w2w_registry.services.recording.newcomers import Newcomer, ask, can_ask
from w2w_registry.services.recording.versions import (
    Activity,
    Input,
    NewVersion,
    Recording,
    record_version,
    record_versions,
)
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.search.resemblance import compare
from w2w_registry.space.sketch import NEAR, Sketch, distance

CHUNK = 256
_STORED = 8  # LoRAs written at once


@dataclass(frozen=True)
class _Foreseen:
    """What a dry run keeps of a file that would be added, to know it again under another file of the command."""

    path: str
    name: str
    digests: tuple[str, ...]
    sketch: Sketch | None


@seldom_collected()
def add(registry: Registry, request: AddRequest, progress: Progress = no_progress) -> AddReport:
    """Add every LoRA under ``request.paths``.

    Raises:
        NotFound: no such space. UsageError, BadName, BadFile: the request itself cannot be used.
        ConsentDenied: the subjects' consent does not allow registering them.
    """
    asked = meant(registry, request)
    candidates = asked.candidates
    taken: dict[str, tuple[str, str]] = {}
    foreseen: list[_Foreseen] = []
    items: list[Item] = []
    for start in range(0, len(candidates), CHUNK):
        part = candidates[start : start + CHUNK]
        items += _add_chunk(registry, request, asked, part, taken, foreseen)
        progress(min(start + CHUNK, len(candidates)), len(candidates))
    return AddReport(asked.row.ref, tuple(items))


def _add_chunk(
    registry: Registry,
    request: AddRequest,
    asked: Meant,
    part: Sequence[Candidate],
    taken: dict[str, tuple[str, str]],
    foreseen: list[_Foreseen],
) -> list[Item]:
    """Read and record some of the candidates; their numbers are let go before the next are read."""
    incoming, failed = read(part, request, asked.row, asked.space, taken)
    chunk = _Chunk(registry, request, asked, foreseen)
    failed = _elsewhere(registry, request, part, failed, asked.labels)
    done = {item.path: item for item in (*failed, *chunk.settle(incoming))}
    return [done[str(candidate.path)] for candidate in part]


def _elsewhere(
    registry: Registry,
    request: AddRequest,
    part: Sequence[Candidate],
    failed: list[Item],
    by_name: Mapping[str, Labels],
) -> list[Item]:
    """LoRAs of another start have no place in the space and are kept without one; the other failures as they are."""
    foreign = {item.path for item in failed if isinstance(item.error, ForeignStart)}
    if not foreign or request.dry_run:
        return failed
    kept = {
        item.path: item
        for item in add_unplaced(registry, request, [c for c in part if str(c.path) in foreign], by_name)
    }
    told = "not trained from the same initialisation as the space's LoRAs: kept without coordinates"
    return [
        replace(kept[item.path], warnings=(told, *kept[item.path].warnings)) if item.path in kept else item
        for item in failed
    ]


class _Chunk:
    """One transaction's worth of an ``add``."""

    def __init__(
        self,
        registry: Registry,
        request: AddRequest,
        asked: Meant,
        foreseen: list[_Foreseen],
    ) -> None:
        self.registry, self.request, self.kind = registry, request, asked.kind
        self.row, self.space, self.by_name = asked.row, asked.space, asked.labels
        self.foreseen = foreseen  # what a dry run would have added by now
        self.started = now()
        self.rooms = threading.local()

    def settle(self, incoming: Sequence[Incoming]) -> list[Item]:
        """Record the new ones; say of the others that they are there."""
        if not incoming:
            return []
        incoming = self._asked(incoming)
        if self.request.dry_run:
            with self.registry.catalog.read() as session:
                door = Door(self.registry, session)
                near = self._near(session, door, incoming)
                return [self._foresee(session, door, one, near[i]) for i, one in enumerate(incoming)]
        # Stored before the transaction that refers to them begins: it waits for no disk, and others not for it.
        new, seen = plain(self.registry, self.row, incoming)
        with ThreadPoolExecutor(_STORED) as disk:  # which commits to its journal once for many that wait
            stored = dict(zip(new, disk.map(lambda i: self._store(incoming[i]), new), strict=True))
        with self.registry.catalog.write(self.registry.actor) as uow:
            self.request.bring(uow)
            gate.require(
                self.registry,
                Use.REGISTER,
                subjects=self.request.subjects,
                kind=self.kind,
                spaces=[self.row.id],
                session=uow.session,
            )
            door = Door(self.registry, uow.session)
            near = self._near(uow.session, door, incoming)
            done = self._record_all(uow, door, incoming, stored, near, seen)
            return self.request.settled(
                uow,
                [done[i] if i in done else self._record(uow, door, one, near[i]) for i, one in enumerate(incoming)],
            )

    def _near(self, session: Session, door: Door, incoming: Sequence[Incoming]) -> list[Sequence[Near]]:
        """Whom each comes near; nobody for a file that a version came in, which is that version and is not asked."""
        files, _ = known_among(session, [one.lora.sha256 for one in incoming], ())
        near: list[Sequence[Near]] = [()] * len(incoming)
        new = [i for i, one in enumerate(incoming) if one.lora.sha256 not in files]
        points = [{self.row.id: incoming[i].coordinates} for i in new]
        for i, found in zip(new, door.second.near([incoming[i].likeness for i in new], points), strict=True):
            near[i] = found
        return near

    def _record_all(
        self,
        uow: UnitOfWork,
        door: Door,
        incoming: Sequence[Incoming],
        stored: Mapping[int, tuple[str, str | None]],
        near: Sequence[Sequence[Near]],
        seen: int,
    ) -> dict[int, Item]:
        """Record those that are ``stored``, in a few statements; nothing when one of them cannot be, after all. After
        event ``seen`` they were new."""
        if not stored:
            return {}
        unchanged = last_seq(uow.session) == seen
        still = list(stored) if unchanged else [i for i in strangers(uow.session, incoming) if i in stored]
        news = [self._new_version(incoming[i], stored[i]) for i in still]
        activities = [self._activity(incoming[i]) for i in still]
        try:
            with uow.savepoint():
                admissions = door.admit_all(news, activities, [near[i] for i in still])
                record_versions(uow, [Recording(*one) for one in zip(news, activities, admissions, strict=True)])
        except RegistryError:
            return {}  # one by one it is said which, and why
        done = {}
        for i, admission in zip(still, admissions, strict=True):
            remarks = door.second.remarks(incoming[i].name, near[i], admission.held)
            remarks = (*remarks, *said_uncompared(door, incoming[i].likeness, incoming[i].unasked))
            done[i] = self._added(incoming[i], 1, remarks, admission.held is not None)
        return done

    def _asked(self, incoming: Sequence[Incoming]) -> list[Incoming]:
        """Those that are new with what they draw, where their base model is at hand."""
        bases = {one.placed.base_model for one in incoming}
        if not any(can_ask(self.registry, base, self.request.pipeline) for base in bases):
            return list(incoming)
        with self.registry.catalog.read() as session:
            new = [i for i, one in enumerate(incoming) if self._known(session, one) is None]
        newcomers = [Newcomer(incoming[i].placed.base_model, incoming[i].candidate.path) for i in new]
        found = dict(zip(new, ask(self.registry, newcomers, self.request.pipeline), strict=True))
        return [
            replace(one, likeness=replace(one.likeness, prints=found[i].prints), unasked=found[i].why)
            if i in found
            else one
            for i, one in enumerate(incoming)
        ]

    def _store(self, one: Incoming) -> tuple[str, str | None]:
        """Digests of the LoRA in one self-contained file (alpha and base model in its header), at the precision it
        came in, and of the picture beside it."""
        dtype: Any = one.lora.dtype if one.lora.dtype in ("fp16", "bf16") else "fp32"
        put = self.registry.artifacts.put
        if one.lora.left:  # what no other form of it could say stays with it
            stored = put(as_kept(read_adapter(one.candidate.path)))
        else:
            stored = put(written_in(self._room(), one.lora, dtype))
        picture = read_preview(one.candidate.path, one.lora.metadata)
        return stored, None if picture is None else put(picture)

    def _room(self) -> bytearray:
        """Memory of this thread to write LoRAs in, one after another."""
        room: bytearray = vars(self.rooms).setdefault("room", bytearray())
        return room

    def _known(self, session: Session, one: Incoming) -> tuple[Version, str | None] | None:
        """The version that already holds this model, and how it is known when the bytes differ."""
        return known_whole(self.registry, session, one.lora, tuple(one.digests), one.likeness)

    def _foresee(self, session: Session, door: Door, one: Incoming, near: Sequence[Near]) -> Item:
        known = self._known(session, one)
        if known is not None:
            return self._existing(session, one, *known)
        twin = next((other for other in self.foreseen if _is_same(other, one)), None)
        if twin is not None:
            how = "re-saved, in this command"
            return Item(one.path, "existing", twin.name, None, one.residual, one.placed.gauge, how)
        try:
            door.hold(one.likeness, {self.row.id: one.coordinates}, path=one.path, model_digest=one.digests.exact)
            one, told = self._named(session, one)
            held = door.admit(self._new_version(one, (None, None)), self._activity(one), near).held
        except RegistryError as error:
            return Item(one.path, "failed", one.name, error=error)
        self.foreseen.append(_Foreseen(one.path, one.name, tuple(one.digests), one.likeness.sketch))
        _, newest = identities_named(session, {one.name}).get(one.name, (None, 0))
        told = (*door.second.remarks(one.name, near, held), *told, *said_uncompared(door, one.likeness, one.unasked))
        return self._added(one, 1 + newest, told, held is not None)

    def _named(self, session: Session, one: Incoming) -> tuple[Incoming, tuple[str, ...]]:
        """The newcomer under the name it gets, and what is to be told of that."""
        name, told = own_name(
            session,
            one.candidate,
            self.request.prefix,
            self.request.subjects,
            lambda name: compare(session, self.row, name, one.coordinates),
        )
        return replace(one, name=name), told

    def _record(self, uow: UnitOfWork, door: Door, one: Incoming, near: Sequence[Near]) -> Item:
        known = self._known(uow.session, one)
        try:
            if known is not None:
                labels = self._labels(one)
                changed = seen_again(self.registry, uow, self.request, self.row, one, known, labels)
                item = self._existing(uow.session, one, *known)
                return replace(item, updated=tuple(changed))
            door.hold(one.likeness, {self.row.id: one.coordinates}, path=one.path, model_digest=one.digests.exact)
            one, told = self._named(uow.session, one)
            # Stored only now: a LoRA that is refused or already there leaves nothing behind.
            new = self._new_version(one, self._store(one))
            activity = self._activity(one)
            admission = door.admit(new, activity, near)
            remarks = door.second.remarks(one.name, near, admission.held)
            with uow.savepoint():
                version = record_version(uow, new, activity, admission)
        except RegistryError as error:
            return Item(one.path, "failed", one.name, error=error)
        told = (*remarks, *told, *said_uncompared(door, one.likeness, one.unasked))
        return self._added(one, version.number, told, admission.held is not None)

    def _labels(self, one: Incoming) -> dict[str, float | str]:
        """The labels this command gives a LoRA, by name or for all."""
        given = {**self.by_name.get(one.candidate.name, {}), **self.by_name.get(one.name, {}), **self.request.labels}
        return given

    def _new_version(self, one: Incoming, artifacts: tuple[str | None, str | None]) -> NewVersion:
        return NewVersion(
            name=one.name,
            kind=self.kind,
            space_id=self.row.id,
            model_digest=one.digests.exact,
            coordinates=one.coordinates,
            base_model=None if one.placed.base_model == UNKNOWN_BASE else one.placed.base_model,
            likeness=one.likeness,
            base_revision=one.lora.base_revision or self.space.base_revision,
            residual=one.residual,
            artifact_digest=artifacts[0],
            preview_digest=artifacts[1],
            manifest_digest=self.request.manifest,
            file=file_of(one),
            subjects=self.request.subjects,
            labels={
                **about(one.candidate.path, told_by(one.lora.metadata)),
                **self._labels(one),
            },
        )

    def _activity(self, one: Incoming) -> Activity:
        origin = self.request.origin
        return Activity(
            OperationKind.IMPORT if origin is None else OperationKind.PULL,
            self.started,
            params={
                **one.lora.summary,
                "gauge": one.placed.gauge,
                "loss": one.placed.loss,
                **named_base(one.lora.base_model, one.placed.base_model),
            },
            inputs=[
                *([] if origin is None else [origin]),
                Input("lora", InputKind.FILE, digest=one.lora.sha256, ref=Path(one.path).name),
                Input("space", InputKind.SPACE, digest=self.row.digest, ref=self.row.ref),
            ],
            models={"base": one.placed.base_model},
        )

    def _existing(self, session: Session, one: Incoming, version: Version, how: str | None) -> Item:
        identity = session.get_one(Identity, version.identity_id)
        name = identity.name
        warnings = self.request.not_changed(identity.kind, version.base_model)
        if how is None and name != one.name:
            warnings = (*warnings, f"this is {name}@{version.number}, which it was not named after")
        return Item(
            one.path,
            "existing",
            name,
            version.number,
            one.residual,
            one.placed.gauge,
            same_model=how,
            warnings=warnings,
        )

    def _added(self, one: Incoming, number: int, near: tuple[str, ...], held: bool) -> Item:
        warnings = (*one.placed.warnings, *self._residual_warning(one), *near)
        return Item(
            one.path, "added", one.name, number, one.residual, one.placed.gauge, warnings=tuple(warnings), held=held
        )

    def _residual_warning(self, one: Incoming) -> Iterable[str]:
        high = (self.row.calibration.get("residual") or {}).get("high")
        if high is not None and one.residual > high:
            yield (
                f"residual {one.residual:.2f}: new LoRAs of this space leave at most {high:.2f}; the space represents "
                "this one poorly, so its matches and edits mean less (other base model, subject or training?)"
            )


def _is_same(earlier: _Foreseen, one: Incoming) -> bool:
    """Whether two files of one command are the same model."""
    if earlier.digests[0] in tuple(one.digests) or one.digests.exact in earlier.digests:
        return True
    first, second = earlier.sketch, one.likeness.sketch
    if first is None or second is None or abs(first.norm - second.norm) > NEAR * first.norm:
        return False
    return distance(first, second) <= NEAR and same_model(read_lora(earlier.path), one.lora).same
