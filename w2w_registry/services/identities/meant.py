"""What an ``add`` means: its space, its labels by name and its candidates, before any of them is read whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from w2w_registry.catalog.models import Space
from w2w_registry.consent.records import Use
from w2w_registry.lora import Candidate, find_loras
from w2w_registry.records import Kind
from w2w_registry.services.consent import gate
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.recording.labels import Labels, read_labels_csv
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace


@dataclass(frozen=True, eq=False)
class Meant:
    """A request that may go on: the space's row and basis, labels by name, and what is to be added."""

    kind: Kind
    row: Space
    space: WeightSpace
    labels: Mapping[str, Labels]
    candidates: list[Candidate]


def meant(registry: Registry, request: AddRequest) -> Meant:
    """Look up what a request names, and ask whether its subjects may be registered there.

    Raises:
        NotFound: no such space. UsageError, BadName, BadFile: the request itself cannot be used.
        ConsentDenied: the subjects' consent does not allow registering them.
    """
    kind = request.meant_kind
    row, space = open_space(registry, request.space)
    labels: dict[str, Labels] = dict(request.table or {})
    if request.labels_csv and request.table is None:
        labels = dict(read_labels_csv(request.labels_csv))
    candidates = request.called(request.candidates if request.candidates is not None else find_loras(request.paths))
    gate.require(registry, Use.REGISTER, subjects=request.subjects, kind=kind, spaces=[row.id])
    return Meant(kind, row, space, labels, candidates)
