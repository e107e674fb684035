"""From any folder to a registry: look at everything, plan, perform.

``survey`` reads every file once and keeps what distinguishes it; ``plan`` says which weight space each goes to, which
spaces would be fitted, what is there twice, what cannot be used and why; ``perform`` does it, and does not plan anew.
Only ``perform`` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from w2w_registry.errors import RegistryError
from w2w_registry.lora import Candidate
from w2w_registry.records import UNKNOWN_BASE
from w2w_registry.services.identities import ingest
from w2w_registry.services.identities.items import AddReport, AddRequest, Item
from w2w_registry.services.identities.naming import say_lookalikes
from w2w_registry.services.identities.outcome import with_beside
from w2w_registry.services.identities.planned import Intake, Plan, repeats
from w2w_registry.services.identities.planning import ENOUGH, plan
from w2w_registry.services.identities.surveying import discovered, matched, survey
from w2w_registry.services.identities.unplaced import add_copies, add_unplaced
from w2w_registry.services.recording.labels import read_labels_csv
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.spaces.manage import fit_space

__all__ = ["ENOUGH", "into", "perform", "plan", "survey"]
Add = Callable[[Registry, AddRequest, Progress], AddReport]


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
        known = {one.candidate.path: one for one in group.members}
        placed = replace(request, name=None, space=space, candidates=candidates, table=labels, seen=known)
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


def into(registry: Registry, request: AddRequest, add: Add, progress: Progress = no_progress) -> Intake:
    """Register everything under the request's paths in one space, by ``add`` (by weights, or by behaviour)."""
    candidates, skipped = discovered(request)
    rows = read_labels_csv(request.labels_csv) if request.labels_csv else {}
    labels, left = matched(request, rows, candidates)
    report = add(registry, replace(request, name=None, candidates=candidates, table=labels), progress)
    assert report.space is not None
    return Intake(with_beside(report.items), tuple(skipped), spaces=(report.space,), unmatched=left)
