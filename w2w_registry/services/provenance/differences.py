"""``diff``: how two versions differ, in what is said of them and in what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.assets import PLAIN_ADAPTER
from w2w_registry.catalog.lookup import labels_of, subjects_of, tags_of
from w2w_registry.catalog.models import Coordinates, Space, Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.vectors import unpack
from w2w_registry.lora import same_model
from w2w_registry.records import Result
from w2w_registry.services.recording.equivalents import stored_likeness
from w2w_registry.services.registry import Registry


@dataclass(frozen=True, eq=False)
class WeightsApart(Result):
    """Two plain LoRAs' ΔW: the layers both have and one alone has, the cosine, and the size of the difference against
    the first's; None where one of them changes nothing."""

    layers_shared: int
    layers_only_first: int
    layers_only_second: int
    cosine: float | None
    difference: float | None


@dataclass(frozen=True, eq=False)
class PointsApart(Result):
    """Two points of one space: cosine (None for a point at the centre) and distance, in units of the space's spread."""

    space: str
    cosine: float | None
    distance: float


@dataclass(frozen=True, eq=False)
class Differences(Result):
    """How two ``versions`` differ. ``same_model``: whether they have one ΔW, None where that is not known. ``related``:
    ``ancestor``, ``descendant``, ``sibling`` or None. ``fields``: name -> [first, second], of those that differ;
    ``labels``, ``tags``: likewise. ``weights``: where both are plain LoRAs. ``coordinates``: where both lie in one
    space."""

    versions: list[str]
    same_model: bool | None
    related: str | None
    fields: dict[str, list[Any]]
    labels: dict[str, list[Any]]
    tags: dict[str, list[Any]]
    weights: WeightsApart | None
    coordinates: PointsApart | None


def diff(registry: Registry, first: str, second: str) -> Differences:
    """What is different, and what was measured.

    Raises:
        NotFound: no such version.
    """
    with registry.catalog.read() as session:
        one, two = (
            version_for(session, first, any_state="@" in first),
            version_for(session, second, any_state="@" in second),
        )
        ids = [one.id, two.id]
        labels, subjects = labels_of(session, ids), subjects_of(session, ids)
        tags = tags_of(session, [one.identity_id, two.identity_id])
        left = _fields(session, one, subjects.get(one.id, ()))
        right = _fields(session, two, subjects.get(two.id, ()))
        mine, theirs = stored_likeness(registry, session, one), stored_likeness(registry, session, two)
        same: bool | None = True if one.model_digest == two.model_digest else None
        weights = None
        if mine.factors is not None and theirs.factors is not None:
            same = same_model(mine.factors, theirs.factors).same
            weights = _weights(mine.factors, theirs.factors)
        return Differences(
            versions=[f"{version.identity.name}@{version.number}" for version in (one, two)],
            same_model=same,
            related=_related(session, one, two),
            fields=_differing(left, right),
            labels=_differing(labels.get(one.id, {}), labels.get(two.id, {})),
            tags=_differing(tags.get(one.identity_id, {}), tags.get(two.identity_id, {})),
            weights=weights,
            coordinates=_coordinates(session, one, two),
        )


def _fields(session: Session, version: Version, subjects: Any) -> dict[str, Any]:
    operation = version.operation
    return {
        "identity": version.identity.name,
        "kind": str(version.identity.kind),
        "state": str(version.state),
        "adapter": version.adapter or PLAIN_ADAPTER,
        "base_model": version.base_model,
        "base_revision": version.base_revision,
        "space": None if version.space_id is None else session.get_one(Space, version.space_id).ref,
        "residual": version.residual,
        "subjects": sorted(subjects),
        "made by": operation.kind,
        "parameters": dict(operation.params),
        "seed": operation.seed,
        "created": version.created,
    }


def _differing(left: Any, right: Any) -> dict[str, list[Any]]:
    keys = [*left, *(key for key in right if key not in left)]
    return {key: [left.get(key), right.get(key)] for key in keys if left.get(key) != right.get(key)}


def _related(session: Session, one: Version, two: Version) -> str | None:
    if one.id == two.id:
        return None
    if two.id in walks.ancestor_ids(session, [one.id]):
        return "descendant"
    if two.id in walks.descendant_ids(session, [one.id]):
        return "ancestor"
    shared = set(walks.ancestor_ids(session, [one.id])) & set(walks.ancestor_ids(session, [two.id]))
    return "sibling" if shared - {one.id, two.id} else None


def _weights(mine: Any, theirs: Any) -> WeightsApart:
    """Cosine and relative difference of ΔW, layer by layer from the factors: ⟨B₁A₁, B₂A₂⟩ = tr((B₁ᵀB₂)(A₂A₁ᵀ))."""
    dot = first = second = 0.0
    modules = {module for module, _ in mine.tensors}
    others = {module for module, _ in theirs.tensors}
    for module in modules | others:
        a = _factors(mine, module) if module in modules else None
        b = _factors(theirs, module) if module in others else None
        first += 0.0 if a is None else _inner(a, a)
        second += 0.0 if b is None else _inner(b, b)
        if a is not None and b is not None and len(a[0]) == len(b[0]) and a[1].shape[1] == b[1].shape[1]:
            dot += _inner(a, b)
    measured = bool(first and second)
    return WeightsApart(
        layers_shared=len(modules & others),
        layers_only_first=len(modules - others),
        layers_only_second=len(others - modules),
        cosine=dot / float(np.sqrt(first * second)) if measured else None,
        difference=float(np.sqrt(max(0.0, first + second - 2 * dot) / first)) if measured else None,
    )


def _factors(one: Any, module: str) -> tuple[Any, Any]:
    a = np.asarray(one.tensors[(module, "A")], np.float64)
    b = np.asarray(one.tensors[(module, "B")], np.float64)
    return one.alphas[module] / len(a) * b.reshape(len(b), -1), a.reshape(len(a), -1)


def _inner(left: tuple[Any, Any], right: tuple[Any, Any]) -> float:
    return float(np.sum((left[0].T @ right[0]) * (left[1] @ right[1].T)))


def _coordinates(session: Session, one: Version, two: Version) -> PointsApart | None:
    """Where both have a point in the first's space."""
    space = one.space_id if one.space_id is not None else two.space_id
    if space is None:
        return None
    rows = [session.get(Coordinates, (space, version.id)) for version in (one, two)]
    if rows[0] is None or rows[1] is None:
        return None
    a, b = (np.asarray(unpack(row.data), np.float64) for row in rows if row is not None)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return PointsApart(
        session.get_one(Space, space).ref, float(a @ b) / size if size else None, float(np.linalg.norm(a - b))
    )
