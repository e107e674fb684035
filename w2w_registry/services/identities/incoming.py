"""What comes in with ``add``: read, placed and likened a chunk at a time, and told apart from what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import identities_named
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.vectors import last_seq
from w2w_registry.errors import Conflict, RegistryError
from w2w_registry.lora import (
    Candidate,
    Factors,
    LoraFile,
    ModelDigests,
    model_digests,
    read_lora,
    rounding_errors,
    same_model,
)
from w2w_registry.records import check_name
from w2w_registry.services.consent.door import Door
from w2w_registry.services.identities.items import AddRequest, Item
from w2w_registry.services.recording.likeness import Likeness, of_lora, sketches_of
from w2w_registry.services.recording.novelty import Arrival, plainly_new
from w2w_registry.services.recording.placement import Placed, place_all
from w2w_registry.services.recording.versions import File
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.sketch import SURELY_NEAR

TOGETHER = 16
"""So many in a chunk are worth telling apart those that can be recorded together."""


@dataclass(frozen=True, eq=False)
class Incoming:
    """One readable LoRA on its way in. ``firm``: rounding moves it so little that its sketch finds it among fp16 and
    bf16 files. ``unasked``: why what it draws could not be seen, when that was tried."""

    candidate: Candidate
    name: str
    lora: LoraFile
    placed: Placed
    digests: ModelDigests
    likeness: Likeness
    coordinates: NDArray[np.float32]
    residual: float
    firm: bool
    unasked: str | None = None

    @property
    def path(self) -> str:
        return str(self.candidate.path)


def read(
    candidates: Sequence[Candidate],
    request: AddRequest,
    row: Space,
    space: WeightSpace,
    taken: dict[str, tuple[str, str]],
) -> tuple[list[Incoming], list[Item]]:
    """Read and place; ``taken`` remembers which path and model each name of this command came from."""
    read: list[tuple[Candidate, str, LoraFile]] = []
    failed: list[Item] = []
    for candidate in candidates:
        name = request.prefix + candidate.name
        try:
            name = check_name(name)
            read.append((candidate, name, read_lora(candidate.path)))
        except RegistryError as error:
            failed.append(Item(str(candidate.path), "failed", name, error=error))
    fitting: list[tuple[Candidate, str, LoraFile, Placed]] = []
    placings = place_all([lora for _, _, lora in read], space, row.ref, request.base_model)
    for (candidate, name, lora), placed in zip(read, placings, strict=True):
        if isinstance(placed, RegistryError):
            failed.append(Item(str(candidate.path), "failed", name, error=placed))
        else:
            fitting.append((candidate, name, lora, placed))
    if not fitting:
        return [], failed
    coordinates, residuals = space.placed([placed.theta for *_, placed in fitting])
    likenesses = _likenesses([(lora, placed) for _, _, lora, placed in fitting], space)
    incoming = []
    errors = rounding_errors([placed.own for *_, placed in fitting], space.layout)
    for i, (candidate, name, lora, placed) in enumerate(fitting):
        digests = model_digests(placed.own, space.layout)
        path = str(candidate.path)
        first, model = taken.setdefault(name, (path, digests.exact))
        if model != digests.exact and not same_model(read_lora(first), lora).same:
            reason = f"{path} and {first} would both get it; use [[name]] or [[prefix]]"
            failed.append(Item(path, "failed", name, error=Conflict(what="name", name=name, reason=reason)))
            continue
        drawn = likenesses[i].sketch
        firm = placed.gauge != "gauge" and drawn is not None and bool(errors[i] <= SURELY_NEAR * drawn.norm)
        residual = float(residuals[i])
        incoming.append(Incoming(candidate, name, lora, placed, digests, likenesses[i], coordinates[i], residual, firm))
    return incoming, failed


def _likenesses(fitting: Sequence[tuple[LoraFile, Placed]], space: WeightSpace) -> list[Likeness]:
    """Of each LoRA; those of the space's rank are sketched together, from their own numbers in its layout."""
    whole = [i for i, (_, placed) in enumerate(fitting) if placed.gauge != "gauge"]
    drawn = dict(zip(whole, sketches_of([fitting[i][1].own for i in whole], space.layout), strict=True))
    return [
        Likeness(Factors(lora.tensors, lora.alphas, lora.dtype), drawn[i]) if i in drawn else of_lora(lora)
        for i, (lora, _) in enumerate(fitting)
    ]


def plain(registry: Registry, row: Space, incoming: Sequence[Incoming]) -> tuple[list[int], int]:
    """Those of many that can be recorded together: plainly new, refused by nobody, under names nobody has. And the last
    event there was then: as long as there is no later one, they are."""
    if len(incoming) < TOGETHER:
        return [], 0
    with registry.catalog.read() as session:
        refused = Door(registry, session).refuses(
            [one.likeness for one in incoming],
            [{row.id: one.coordinates} for one in incoming],
            [one.digests.exact for one in incoming],
        )
        return [i for i in strangers(session, incoming) if not refused[i]], last_seq(session)


def strangers(session: Session, incoming: Sequence[Incoming]) -> list[int]:
    """Those that no version is, and no other of them, under names that no identity and no other of them has."""
    arrivals = [
        Arrival(one.lora.sha256, (one.digests.exact,) if one.firm else tuple(one.digests), one.likeness.sketch)
        for one in incoming
    ]
    new = plainly_new(session, arrivals)
    times = Counter(one.name for one in incoming)
    taken = identities_named(session, times)
    return [i for i, one in enumerate(incoming) if new[i] and times[one.name] == 1 and one.name not in taken]


def file_of(one: Incoming) -> File:
    """The file it came in."""
    tensor_file = one.lora.files[0]
    return File(one.lora.sha256, one.lora.format, one.lora.dtype, Path(one.path).name, tensor_file.stat().st_size)
