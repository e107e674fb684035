"""From any folder to a registry: look at everything, plan, perform.

``survey`` reads every file once and keeps what distinguishes it; ``plan`` says which weight space each goes to, which
spaces would be fitted, what is there twice, what cannot be used and why; ``perform`` does it, and does not plan anew.
Only ``perform`` writes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.resolve import all_spaces
from w2w_registry.errors import RegistryError
from w2w_registry.lora import (
    Adapter,
    Candidate,
    Skipped,
    digests_of,
    discover,
    lora_of,
    not_plain,
    read_adapter,
    same_adapter,
)
from w2w_registry.records import UNKNOWN_BASE, IdentityRef, check_name
from w2w_registry.services.identities import ingest
from w2w_registry.services.identities.items import AddReport, AddRequest, Item, Seen
from w2w_registry.services.identities.naming import say_lookalikes
from w2w_registry.services.identities.outcome import with_beside
from w2w_registry.services.identities.planned import Group, Intake, Plan, Survey, repeats
from w2w_registry.services.identities.unplaced import add_copies, add_unplaced, other_strength, remarks, said_copy
from w2w_registry.services.recording.equivalents import known_adapter
from w2w_registry.services.recording.labels import Labels, match_names, read_labels_csv
from w2w_registry.services.recording.likeness import of_adapter, sketches_of_adapters
from w2w_registry.services.recording.novelty import Arrival, plainly_new
from w2w_registry.services.recording.placement import hint_agrees, same_model_id
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.spaces.fitset import no_common_start
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.spaces.members import LEAST
from w2w_registry.space.gauge import obstacles
from w2w_registry.space.layout import Layout
from w2w_registry.space.sketch import NEAR, Sketch, cells, distance, near_cells

ENOUGH = LEAST
"""So many different LoRAs of one layout and base model make a space worth fitting; from 40 on it is calibrated."""
_AT_ONCE, _AT_ONCE_BYTES = 32, 32 << 20
Add = Callable[[Registry, AddRequest, Progress], AddReport]
_NOT_ADAPTERS = (
    *("a textual-inversion embedding", "not a LoRA: ", "an adapter of a language model"),
    "an adapter of a model that makes music",
    *("a PEFT adapter of the kind", "a Control-LoRA", "an IP-Adapter", "an optimizer's state"),
    "weights of Custom Diffusion",
)


def survey(request: AddRequest, progress: Progress = no_progress, looked: Progress = no_progress) -> Survey:
    """Read everything under the request's paths, a few files at a time. ``looked`` counts what is in the folders before
    that, of a number not known.

    Raises:
        UsageError: ``name`` for more than one adapter. BadFile: a label table that cannot be read.
    """
    candidates, skipped = _discovered(request, looked)
    rows = read_labels_csv(request.labels_csv) if request.labels_csv else {}
    seen: list[Seen] = []
    failed: list[Item] = []
    twins, done = Twins(), 0
    for part in _read(candidates, request.prefix):
        adapters = [found for _, found in part if isinstance(found, Adapter)]
        drawn = iter(sketches_of_adapters(adapters))
        for candidate, found in part:
            try:
                if isinstance(found, RegistryError):
                    raise found
                seen.append(_look(candidate, found, next(drawn), request, twins))
            except RegistryError as error:
                reason = str(error.fields.get("reason", ""))
                if len(candidates) > 1 and reason.startswith(_NOT_ADAPTERS):
                    skipped.append(Skipped(candidate.path, reason, error.fields.get("hint")))
                else:
                    failed.append(Item(str(candidate.path), "failed", request.prefix + candidate.name, error=error))
            done += 1
            progress(done, len(candidates))
    # Of two copies of one model the one that says its alpha is registered, then the more precise.
    seen.sort(key=lambda one: (not one.scaled, one.dtype not in ("fp32", "fp64")))
    labels, left = _matched(request, rows, [one.candidate for one in seen])
    return Survey(tuple(seen), tuple(failed), tuple(skipped), request.prefix, labels, left)


def _discovered(request: AddRequest, looked: Progress = no_progress) -> tuple[list[Candidate], list[Skipped]]:
    if request.candidates is not None:
        return request.called(list(request.candidates)), []
    candidates, skipped = discover(request.paths, lambda entries: looked(entries, 0))
    return request.called(candidates), skipped


def _read(candidates: Sequence[Candidate], prefix: str) -> Iterator[list[tuple[Candidate, Adapter | RegistryError]]]:
    """What each file holds, or why it cannot be read; as many at once as are sketched together."""
    part: list[tuple[Candidate, Adapter | RegistryError]] = []
    size = 0
    for candidate in candidates:
        try:
            check_name(prefix + candidate.name)
            part.append((candidate, found := read_adapter(candidate.path)))
            size += found.files[0].stat().st_size
        except RegistryError as error:
            part.append((candidate, error))
        if len(part) == _AT_ONCE or size > _AT_ONCE_BYTES:
            yield part
            part, size = [], 0
    yield part


def _look(candidate: Candidate, adapter: Adapter, sketch: Sketch | None, request: AddRequest, twins: Twins) -> Seen:
    digests = digests_of(adapter)
    layout = None
    if not_plain(adapter) is None:
        lora = lora_of(adapter)
        layout = lora.layout() if lora.alpha is not None else None
    return Seen(
        candidate,
        adapter.kind,
        adapter.format,
        adapter.dtype,
        adapter.sha256,
        adapter.files[0].stat().st_size,
        digests,
        request.base_model or adapter.base_model,
        adapter.told.base_hint,
        layout,
        tuple(sorted({c.rank for c in adapter.changes if c.kind in ("LoRA", "DoRA")})),
        sketch,
        twins.number(adapter, digests, sketch),
        max(adapter.parts, key=lambda part: adapter.parts[part]),
        adapter.alpha_source != "default",
        tuple(remarks(adapter, request)),
    )


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


def perform(
    registry: Registry,
    request: AddRequest,
    planned: Plan,
    progress: Progress = no_progress,
    fitting: Callable[[str], Progress] = lambda space: no_progress,
) -> Intake:
    """Fit the planned spaces, then register everything: in its space, or in none. ``fitting`` gives what
    counts the LoRAs read for a space.

    A space that cannot be fitted after all is said, and its LoRAs are registered in no space.
    """
    labels, left = planned.survey.labels, planned.survey.unmatched
    items: list[Item] = list(planned.survey.failed)
    fitted: list[str] = []
    unfitted: dict[str, RegistryError] = dict(planned.unfitted)
    homeless: list[Candidate] = []
    total, done = sum(len(group.members) for group in planned.groups), 0
    seen = planned.survey.seen
    again = [(seen[i], seen[first]) for i, first in repeats(seen).items()]
    later = {one.candidate for one, _ in again}
    for group in planned.groups:
        candidates = [one.candidate for one in group.members if one.candidate not in later]
        space = group.space
        if group.fit:
            assert space is not None
            try:
                space = _fit(registry, space, group.base_model, candidates, fitting(space))
                fitted.append(space)
            except RegistryError as error:
                unfitted[space], space = error, None
        if space is None:
            homeless += candidates
            continue
        progress(done, total)
        placed = replace(request, name=None, space=space, candidates=candidates, table=labels)
        report = ingest.add(registry, placed, _counting_on(progress, done, total))
        for item in report.items:
            if item.error is not None and item.error.code == "space-mismatch":
                homeless.append(next(c for c in candidates if str(c.path) == item.path))
            else:
                items.append(item)
        done += len(candidates)
    progress(done, total)
    for start in range(0, len(homeless), ingest.CHUNK):
        items += add_unplaced(registry, request, homeless[start : start + ingest.CHUNK], labels)
        progress(min(total, done + start + ingest.CHUNK), total)
    items += add_copies(registry, request, again, labels)
    progress(total, total)
    order = {str(one.candidate.path): i for i, one in enumerate(planned.survey.seen)}
    items = say_lookalikes(registry, with_beside(items))
    items.sort(key=lambda item: order.get(item.path, -1))
    spaces = sorted({group.space for group in planned.groups if group.space is not None} - set(unfitted))
    return Intake(tuple(items), planned.survey.skipped, tuple(fitted), unfitted, tuple(spaces), left)


def _fit(
    registry: Registry, space: str, base_model: str | None, candidates: Sequence[Candidate], progress: Progress
) -> str:
    """Fit a planned space; returns what it is called."""
    name, paths = space.partition("@")[0], [str(c.path) for c in candidates]
    return str(fit_space(registry, name, paths, base_model=base_model or UNKNOWN_BASE, progress=progress)["space"])


def _counting_on(progress: Progress, before: int, total: int) -> Progress:
    return lambda more, _: progress(before + more, total)


def _matched(
    request: AddRequest, rows: Mapping[str, Labels], candidates: Sequence[Candidate]
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Labels by candidate's name, and the rows of the table that mean none of them."""
    meant = match_names(rows, [request.prefix + one.name for one in candidates])
    labels = {name.removeprefix(request.prefix): rows[row] for row, name in meant.items()}
    return labels, tuple(row for row in rows if row not in meant)


def into(registry: Registry, request: AddRequest, add: Add, progress: Progress = no_progress) -> Intake:
    """Register everything under the request's paths in one space, by ``add`` (by weights, or by behaviour)."""
    candidates, skipped = _discovered(request)
    rows = read_labels_csv(request.labels_csv) if request.labels_csv else {}
    labels, left = _matched(request, rows, candidates)
    report = add(registry, replace(request, name=None, candidates=candidates, table=labels), progress)
    assert report.space is not None
    return Intake(with_beside(report.items), tuple(skipped), spaces=(report.space,), unmatched=left)


class Twins:
    """Adapters as they are seen, each with the number of the model it is; the first of a model gives the number."""

    def __init__(self) -> None:
        self._by_key: dict[str, int] = {}
        self._seen: dict[int, list[tuple[Path, Sketch, int]]] = {}  # by cell
        self._next = 0

    def number(self, adapter: Adapter, digests: Sequence[str], sketch: Sketch | None) -> int:
        """The model this is: a new one, or that of one before."""
        keys = (adapter.sha256, *digests)
        known = next((self._by_key[key] for key in keys if key in self._by_key), None)
        if known is None and sketch is not None:
            known = self._like(adapter, sketch)
        found = self._next if known is None else known
        if known is None:
            self._next += 1
        if sketch is not None:
            self._keep(adapter.path, sketch, found)
        for key in keys:
            self._by_key.setdefault(key, found)
        return found

    def _like(self, adapter: Adapter, sketch: Sketch) -> int | None:
        (near,) = near_cells([sketch])
        for path, theirs, number in (one for cell in near for one in self._seen.get(cell, ())):
            if distance(sketch, theirs) > NEAR:
                continue
            try:
                if same_adapter(read_adapter(path), adapter):
                    return number
            except RegistryError:  # it is gone, or another by now
                continue
        return None

    def _keep(self, path: Path, sketch: Sketch, number: int) -> None:
        self._seen.setdefault(cells([sketch])[0], []).append((path, sketch, number))
