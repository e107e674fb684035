"""Adapters that no weight space holds become versions all the same: kept as the file they are, with what is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from w2w_registry.catalog.lookup import came_in
from w2w_registry.catalog.models import Identity, InputKind
from w2w_registry.consent.records import Use
from w2w_registry.errors import RegistryError
from w2w_registry.files import read_bytes
from w2w_registry.lora import Adapter, Candidate, lora_of, model_digests, not_plain, read_adapter
from w2w_registry.lora.config import OWN_CONFIG
from w2w_registry.lora.tensorfile import MAX_DATA
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door
from w2w_registry.services.identities.about import about
from w2w_registry.services.identities.items import AddRequest, Item
from w2w_registry.services.identities.previews import read_preview
from w2w_registry.services.recording.equivalents import known_model
from w2w_registry.services.recording.labels import Label
from w2w_registry.services.recording.likeness import UNKNOWN, Likeness, of_lora
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


def add_unplaced(
    registry: Registry,
    request: AddRequest,
    candidates: Sequence[Candidate],
    labels: Mapping[str, Mapping[str, Label]],
) -> list[Item]:
    """Record adapters in no weight space, one transaction for all; what fails is said and the others go on."""
    kind = Kind.parse(request.kind)
    started = now()
    items: list[Item] = []
    with registry.catalog.write(registry.actor) as uow:
        gate.require(registry, Use.REGISTER, subjects=request.subjects, kind=kind, session=uow.session)
        door = Door(registry, uow.session)
        for candidate in candidates:
            name = request.prefix + candidate.name
            try:
                adapter = read_adapter(candidate.path)
                digests = digests_of(adapter)
                file = File(
                    adapter.sha256,
                    adapter.format,
                    adapter.dtype,
                    candidate.path.name,
                    adapter.files[0].stat().st_size,
                )
                likeness = likeness_of(adapter)
                there = known_model(registry, uow.session, adapter.sha256, digests, likeness)
                if there is not None:
                    known, how = there
                    held = came_in(uow.session, known.id, adapter.sha256)
                    if not held:
                        uow.add(source_file(known, digests[0], file, uow.now()))
                        uow.event("file.add", {"version": known.id}, file=adapter.sha256)
                    owner = uow.session.get_one(Identity, known.identity_id).name
                    items.append(Item(str(candidate.path), "existing", owner, known.number, same_model=how))
                    continue
                door.hold(likeness, {}, path=str(candidate.path), model_digest=digests[0])
                picture = read_preview(candidate.path)
                new = NewVersion(
                    name=name,
                    kind=kind,
                    space_id=None,
                    model_digest=digests[0],
                    coordinates=None,
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
                    params=adapter.summary(),
                    inputs=[
                        *([] if request.origin is None else [request.origin]),
                        Input("lora", InputKind.FILE, digest=adapter.sha256, ref=candidate.path.name),
                    ],
                    models={} if new.base_model is None else {"base": new.base_model},
                )
                with uow.savepoint():
                    version = record_version(uow, new, activity, door.admit(new))
            except RegistryError as error:
                items.append(Item(str(candidate.path), "failed", name, error=error))
                continue
            items.append(
                Item(str(candidate.path), "added", name, version.number, warnings=tuple(remarks(adapter, request)))
            )
    return items


def remarks(adapter: Adapter, request: AddRequest) -> list[str]:
    """What a person should be told of an adapter, gravest first."""
    found = list(adapter.remarks)
    if request.base_model and adapter.base_model and request.base_model != adapter.base_model:
        found.insert(
            0, f"its file names {adapter.base_model} as base model; recorded as {request.base_model}, as you say"
        )
    if adapter.unread:
        found.append(f"{len(adapter.unread)} of its tensors are of a kind this release does not know; kept as they are")
    return found


def as_kept(adapter: Adapter) -> bytes:
    """The adapter in one file: byte for byte as it came, or, when its settings lay beside, with those in its header."""
    data = read_bytes(adapter.files[0], limit=MAX_DATA)
    if len(adapter.files) == 1 or adapter.config is None:
        return data
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    text = json.dumps(dict(adapter.config), sort_keys=True)
    table["__metadata__"] = {**table.get("__metadata__", {}), OWN_CONFIG: text}
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, data[8 + length :]])


def kept_files(data: bytes, name: str) -> dict[str, bytes]:
    """The files of an adapter kept by :func:`as_kept`, by name: its settings lie beside it again."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    settings = metadata.get(OWN_CONFIG)
    if settings is None:
        return {Path(name).name: data}
    return {"adapter_model.safetensors": data, "adapter_config.json": (settings + "\n").encode()}
