"""What lies in folders: every file read once, and what distinguishes it kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import RegistryError
from w2w_registry.lora import (
    Adapter,
    Candidate,
    Skipped,
    digests_of,
    discover,
    model_digests,
    plain_lora,
    read_adapter,
    rounding_errors,
    same_adapter,
)
from w2w_registry.lora.adapter import adapter_of
from w2w_registry.lora.adapter import read as read_file
from w2w_registry.records import check_name
from w2w_registry.services.identities.items import AddRequest, Item, Seen
from w2w_registry.services.identities.planned import Survey
from w2w_registry.services.identities.unplaced import remarks
from w2w_registry.services.recording.garbage import seldom_collected
from w2w_registry.services.recording.labels import Labels, match_names, read_labels_csv
from w2w_registry.services.recording.likeness import sketches_of, sketches_of_adapters
from w2w_registry.services.registry import Progress, no_progress
from w2w_registry.space.layout import Layout, TensorKey
from w2w_registry.space.sketch import NEAR, SURELY_NEAR, Sketch, cells, distance, near_cells

_AT_ONCE, _AT_ONCE_BYTES = 32, 32 << 20
_NOT_ADAPTERS = (
    *("a textual-inversion embedding", "not a LoRA: ", "an adapter of a language model"),
    *("a PEFT adapter of the kind", "a Control-LoRA", "an IP-Adapter", "an optimizer's state"),
    "weights of Custom Diffusion",
)


@seldom_collected()
def survey(request: AddRequest, progress: Progress = no_progress, looked: Progress = no_progress) -> Survey:
    """Read everything under the request's paths, a few files at a time. ``looked`` counts what is in the folders before
    that, of a number not known.

    Raises:
        UsageError: ``name`` for more than one adapter. BadFile: a label table that cannot be read.
    """
    candidates, skipped = discovered(request, looked)
    rows = read_labels_csv(request.labels_csv) if request.labels_csv else {}
    seen: list[Seen] = []
    failed: list[Item] = []
    twins, done = Twins(), 0
    for part in _read(candidates, request):
        drawn = iter(_drawn([found for _, found in part if isinstance(found, _Read)]))
        for candidate, found in part:
            if isinstance(found, _Read):
                seen.append(_look(candidate, found, *next(drawn), twins))
            else:
                reason = str(found.fields.get("reason", ""))
                if len(candidates) > 1 and reason.startswith(_NOT_ADAPTERS):
                    skipped.append(Skipped(candidate.path, reason, found.fields.get("hint")))
                else:
                    failed.append(Item(str(candidate.path), "failed", request.prefix + candidate.name, error=found))
            done += 1
            progress(done, len(candidates))
    # Of two copies of one model the one that says its alpha is registered, then the more precise.
    seen.sort(key=lambda one: (not one.scaled, one.dtype not in ("fp32", "fp64")))
    labels, left = matched(request, rows, [one.candidate for one in seen])
    return Survey(tuple(seen), tuple(failed), tuple(skipped), request.prefix, labels, left)


def discovered(request: AddRequest, looked: Progress = no_progress) -> tuple[list[Candidate], list[Skipped]]:
    """What is under the request's paths, and what is passed over.

    Raises:
        UsageError: ``name`` for more than one adapter.
    """
    if request.candidates is not None:
        return request.called(list(request.candidates)), []
    candidates, skipped = discover(request.paths, lambda entries: looked(entries, 0))
    return request.called(candidates), skipped


def matched(
    request: AddRequest, rows: Mapping[str, Labels], candidates: Sequence[Candidate]
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Labels by candidate's name, and the rows of the table that mean none of them."""
    meant = match_names(rows, [request.prefix + one.name for one in candidates])
    labels = {name.removeprefix(request.prefix): rows[row] for row, name in meant.items()}
    return labels, tuple(row for row in rows if row not in meant)


@dataclass(frozen=True, eq=False)
class _Read:
    """An adapter that was read: ``facts`` is all that can be said without a sketch. ``theta`` (D,) in its ``layout``,
    of a plain LoRA that has one, or ``adapter`` itself. ``alone``: θ is all there is to it."""

    facts: Seen
    theta: NDArray[np.float32] | None
    adapter: Adapter | None
    alone: bool


class _Room:
    """Memory for the θ of files that are looked at together, used again for the next ones: to touch memory anew takes
    longer than to read a file into it."""

    def __init__(self) -> None:
        self._all = np.empty(_AT_ONCE_BYTES // 4, np.float32)
        self._used = 0

    def clear(self) -> None:
        self._used = 0

    def theta(self, layout: Layout, tensors: Mapping[TensorKey, NDArray[np.float32]]) -> NDArray[np.float32]:
        """θ (D,) in a layout."""
        stop = self._used + layout.dim
        if stop > len(self._all):
            return layout.flatten(tensors)
        place = self._all[self._used : stop]
        self._used = stop
        return layout.flatten(tensors, out=place)


def _read(
    candidates: Sequence[Candidate], request: AddRequest
) -> Iterator[list[tuple[Candidate, _Read | RegistryError]]]:
    """What each file holds, or why it cannot be read; as many at once as are sketched together."""
    part: list[tuple[Candidate, _Read | RegistryError]] = []
    size, room = 0, _Room()
    for candidate in candidates:
        try:
            check_name(request.prefix + candidate.name)
            part.append((candidate, found := _read_one(candidate, request, room)))
            size += found.facts.size
        except RegistryError as error:
            part.append((candidate, error))
        if len(part) == _AT_ONCE or size > _AT_ONCE_BYTES:
            yield part
            part, size = [], 0
            room.clear()
    yield part


def _read_one(candidate: Candidate, request: AddRequest, room: _Room) -> _Read:
    """Raises BadLora."""
    reading = read_file(candidate.path)
    adapter = adapter_of(reading)
    lora = plain_lora(adapter)
    placed = not isinstance(lora, str) and lora.alpha is not None
    layout = lora.layout() if placed and not isinstance(lora, str) else None
    facts = Seen(
        candidate,
        adapter.kind,
        adapter.format,
        adapter.dtype,
        reading.data.mark,
        (),
        request.base_model or adapter.base_model,
        adapter.told.base_hint,
        layout,
        tuple(sorted({c.rank for c in adapter.changes if c.kind in ("LoRA", "DoRA")})),
        None,
        0,
        max(adapter.parts, key=lambda part: adapter.parts[part]),
        adapter.alpha_source != "default",
        tuple(remarks(adapter, request, lora if isinstance(lora, str) else None)),
    )
    if layout is None or isinstance(lora, str):
        return _Read(facts, None, adapter, False)
    return _Read(facts, room.theta(layout, lora.tensors), adapter if lora.beside else None, not lora.beside)


def _drawn(read: Sequence[_Read]) -> list[tuple[Sketch | None, bool]]:
    """The sketch of each, those of one layout sketched together, and whether it finds what rounding makes of it."""
    found: list[tuple[Sketch | None, bool]] = [(None, False)] * len(read)
    by_layout: dict[str, list[tuple[int, NDArray[np.float32]]]] = {}
    layouts: dict[str, Layout] = {}
    for i, one in enumerate(read):
        if (layout := one.facts.layout) is not None and one.theta is not None:
            layouts[layout.digest] = layout
            by_layout.setdefault(layout.digest, []).append((i, one.theta))
    others = [(i, one.adapter) for i, one in enumerate(read) if one.theta is None and one.adapter is not None]
    for (i, _), sketch in zip(others, sketches_of_adapters([adapter for _, adapter in others]), strict=True):
        found[i] = sketch, False
    for digest, members in by_layout.items():
        thetas, layout = [theta for _, theta in members], layouts[digest]
        drawn = zip(members, sketches_of(thetas, layout), rounding_errors(thetas, layout), strict=True)
        for (i, _), sketch, error in drawn:
            found[i] = sketch, read[i].alone and bool(error <= SURELY_NEAR * sketch.norm)
    return found


def _look(candidate: Candidate, read: _Read, sketch: Sketch | None, firm: bool, twins: Twins) -> Seen:
    digests: tuple[str, ...]
    facts = read.facts
    if read.alone and read.theta is not None and facts.layout is not None:
        own = model_digests(read.theta, facts.layout)
        digests = (own.exact,) if firm else tuple(own)
    else:
        assert read.adapter is not None
        digests = digests_of(read.adapter)
    model = twins.number(candidate.path, (facts.sha256, *digests), sketch)
    return replace(facts, digests=digests, sketch=sketch, model=model)


class Twins:
    """Adapters as they are seen, each with the number of the model it is; the first of a model gives the number."""

    def __init__(self) -> None:
        self._by_key: dict[str, int] = {}
        self._seen: dict[int, list[tuple[Path, Sketch, int]]] = {}  # by cell
        self._next = 0

    def number(self, path: Path, keys: Sequence[str], sketch: Sketch | None) -> int:
        """The model that the adapter at ``path`` is: a new one, or that of one before. ``keys``: digests, of its file
        and of its numbers."""
        known = next((self._by_key[key] for key in keys if key in self._by_key), None)
        if known is None and sketch is not None:
            known = self._like(path, sketch)
        found = self._next if known is None else known
        if known is None:
            self._next += 1
        if sketch is not None:
            self._keep(path, sketch, found)
        for key in keys:
            self._by_key.setdefault(key, found)
        return found

    def _like(self, path: Path, sketch: Sketch) -> int | None:
        (near,) = near_cells([sketch])
        for other, theirs, number in (one for cell in near for one in self._seen.get(cell, ())):
            if distance(sketch, theirs) <= NEAR and _same(path, other):
                return number
        return None

    def _keep(self, path: Path, sketch: Sketch, number: int) -> None:
        self._seen.setdefault(cells([sketch])[0], []).append((path, sketch, number))


def _same(path: Path, other: Path) -> bool:
    """Whether the adapters there are one model; no where one of them is gone, or another by now."""
    try:
        one, two = read_adapter(path), read_adapter(other)
    except RegistryError:
        return False
    first, second = digests_of(one), digests_of(two)
    return first[0] in second or second[0] in first or same_adapter(two, one)
