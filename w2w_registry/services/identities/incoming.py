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
    LoraFile,
    ModelDigests,
    model_digest,
    read_lora,
    rounding_errors,
    same_model,
)
from w2w_registry.records import check_name
from w2w_registry.services.consent.door import Door
from w2w_registry.services.identities.items import AddRequest, Item, Seen
from w2w_registry.services.recording.likeness import Likeness, factors_of_lora, of_lora, sketches_of
from w2w_registry.services.recording.novelty import Arrival, plainly_new
from w2w_registry.services.recording.placement import Placed, place_all
from w2w_registry.services.recording.versions import File
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.sketch import SURELY_NEAR, Sketch

TOGETHER = 16
"""So many in a chunk are worth telling apart those that can be recorded together."""
_AT_ONCE = 32


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
    """Read and place; ``taken`` remembers which path and model each name of this command came from.

    What was worked out when a file was looked through (``request.seen``) is not worked out again where its bytes are
    still the same.
    """
    read: list[tuple[Candidate, str, LoraFile]] = []
    failed: list[Item] = []
    for candidate in candidates:
        name = request.prefix + candidate.name
        try:
            name = check_name(name)
            seen = request.seen.get(candidate.path)
            read.append((candidate, name, read_lora(candidate.path, None if seen is None else seen.mark)))
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
    known = [_as_seen(request, candidate, lora, placed, space) for candidate, _, lora, placed in fitting]
    learnt = _learnt([placed for *_, placed in fitting], known, space)
    incoming = []
    for i, (candidate, name, lora, placed) in enumerate(fitting):
        exact, sketch, firm = learnt[i]
        likeness = of_lora(lora) if sketch is None else Likeness(factors_of_lora(lora), sketch)
        digests = ModelDigests(exact, placed.numbers, space.layout)
        path = str(candidate.path)
        first, model = taken.setdefault(name, (path, digests.exact))
        if model != digests.exact and not same_model(read_lora(first), lora).same:
            reason = f"{path} and {first} would both get it; use [[name]] or [[prefix]]"
            failed.append(Item(path, "failed", name, error=Conflict(what="name", name=name, reason=reason)))
            continue
        residual = float(residuals[i])
        incoming.append(Incoming(candidate, name, lora, placed, digests, likeness, coordinates[i], residual, firm))
    return incoming, failed


def _as_seen(
    request: AddRequest, candidate: Candidate, lora: LoraFile, placed: Placed, space: WeightSpace
) -> Seen | None:
    """What is known of a LoRA in the space's own layout from when its folder was looked through, if its bytes and its
    alpha are still what they were then."""
    seen = request.seen.get(candidate.path)
    if seen is None or seen.layout is None or seen.sketch is None or placed.gauge == "gauge":
        return None
    same = seen.sha256 == lora.sha256 and lora.alpha == seen.layout.alpha and not lora.beside
    return seen if same and seen.layout.digest == space.layout.digest else None


def _learnt(
    placed: Sequence[Placed], known: Sequence[Seen | None], space: WeightSpace
) -> list[tuple[str, Sketch | None, bool]]:
    """Of each LoRA the exact digest; the sketch, None where it is not of the space's rank; and whether rounding moves
    it so little that the sketch finds it among fp16 and bf16 files. A few are worked out at a time, from their own
    numbers in the space's layout."""
    found: dict[int, tuple[str, Sketch | None, bool]] = {
        i: (seen.digests[0], seen.sketch, seen.firm) for i, seen in enumerate(known) if seen is not None
    }
    asked = [i for i in range(len(placed)) if i not in found]
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        own = [placed[i].own for i in part]
        drawn = sketches_of(own, space.layout), rounding_errors(own, space.layout)
        for i, numbers, sketch, error in zip(part, own, *drawn, strict=True):
            exact, whole = model_digest(numbers, space.layout), placed[i].gauge != "gauge"
            found[i] = exact, sketch if whole else None, whole and bool(error <= SURELY_NEAR * sketch.norm)
    return [found[i] for i in range(len(placed))]


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
