"""Attribute directions of a weight space: fitted from labels, composed, de-biased, stored with measured quality."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.models import Direction, InputKind, Space
from w2w_registry.catalog.points import newest_points, number_labels
from w2w_registry.catalog.resolve import direction_named
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.space_rows import find_direction
from w2w_registry.commands import command
from w2w_registry.errors import Conflict, NotFound, UsageError
from w2w_registry.records import check_name, digest_of, now
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.versions import Activity, Input, record_operation
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.direction_list import DirectionShown, shown
from w2w_registry.space import directions as maths
from w2w_registry.space.direction_fit import Designs, Method, fit_direction, fit_reader
from w2w_registry.space.directions import Direction as Fitted


@dataclass(frozen=True, eq=False)
class Labelled:
    """The identities of a space with their labels: coordinates (n, k) and, per attribute, values (n,), NaN unknown."""

    version_ids: tuple[int, ...]
    coordinates: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.float64]]

    def values(self, attribute: str) -> NDArray[np.float64]:
        """Values (n,) of one attribute.

        Raises:
            NotFound: nobody has such a numeric label.
        """
        if attribute not in self.labels:
            near = tuple(sorted(self.labels))[:8]
            raise NotFound(what="numeric label", name=attribute, near=near)
        return self.labels[attribute]


def labelled(session: Session, space: Space) -> Labelled:
    """The newest active version of every identity in ``space``, with its numeric labels."""
    newest = newest_points(session, space.id)
    ids = tuple(newest)
    points = np.stack(list(newest.values())) if newest else np.zeros((0, space.components), np.float32)
    place = {v: i for i, v in enumerate(ids)}
    labels: dict[str, NDArray[np.float64]] = {}
    for version, name, number in number_labels(session, space.id):
        if version in place:
            column = labels.setdefault(name, np.full(len(ids), np.nan))
            column[place[version]] = number
    return Labelled(ids, points, dict(sorted(labels.items())))


# -- stored rows <-> fitted values -------------------------------------------------------------------
def from_row(row: Direction) -> Fitted:
    """The direction a row holds."""
    calibration = dict(row.calibration)
    reader = np.frombuffer(base64.b64decode(calibration.pop("reader")), "<f4")
    data = {**calibration, "attribute": row.attribute, "method": row.method}
    data |= {"quality": row.quality, "leakage": row.leakage}
    return Fitted.from_json(data, np.frombuffer(row.vector, "<f4"), reader)


# -- services ----------------------------------------------------------------------------------------
def fit(
    registry: Registry,
    name: str,
    attribute: str,
    space_ref: str | None = None,
    *,
    method: Method = "least-squares",
    seed: int = 0,
    replace_existing: bool = False,
) -> DirectionShown:
    """Fit ``attribute`` on the labelled identities of ``space`` and store it under ``name``.

    Raises:
        NotFound: no such label. UsageError: labels that cannot be fitted. Conflict: the name is taken.
    """
    (made,) = fit_many(
        registry, {name: attribute}, space_ref, method=method, seed=seed, replace_existing=replace_existing
    )
    return made


def fit_many(
    registry: Registry,
    attributes: Mapping[str, str] | None = None,
    space_ref: str | None = None,
    *,
    method: Method = "least-squares",
    seed: int = 0,
    replace_existing: bool = False,
    progress: Progress = no_progress,
) -> list[DirectionShown]:
    """As :func:`fit` for several directions (name -> attribute), which share most of the work; None = every numeric
    label that enough identities have, each under its own name.

    Raises:
        NotFound, UsageError, Conflict: as :func:`fit`; directions stored before stay.
    """
    for name in attributes or ():  # before the work, not after it
        check_name(name, "direction")
    space, arrays = open_space(registry, space_ref)
    component_std, designs = arrays.component_std, Designs()
    with registry.catalog.read() as session:
        people = labelled(session, space)
    known = {d.attribute: d for d in readers(people, component_std, designs=designs)}
    wanted = {name: name for name in known} if attributes is None else attributes
    if not wanted:
        raise UsageError(
            reason=f"nobody in {space.ref} has numeric labels to fit",
            hint=f"`{command('label import', 'FILE')}` adds some",
        )
    made = []
    for name, attribute in wanted.items():
        started, values = now(), people.values(attribute)
        fitted = fit_direction(
            attribute, people.coordinates, values, component_std, method=method, seed=seed, designs=designs
        )
        fitted = maths.with_leakage(fitted, [d for other, d in known.items() if other != attribute])
        pairs = [[v, float(x)] for v, x in zip(people.version_ids, values, strict=True) if np.isfinite(x)]
        params = {"attribute": attribute, "method": method, "labels": digest_of(pairs), "identities": len(pairs)}
        activity = Activity("direction-fit", started, params, (_space_input(space),), seed)
        made.append(_store(registry, name, space, fitted, activity, replace_existing))
        progress(len(made), len(wanted))
    return made


def compose(
    registry: Registry,
    name: str,
    parts: Mapping[str, float],
    space_ref: str | None = None,
    *,
    replace_existing: bool = False,
) -> DirectionShown:
    """Store the direction that moves several stored ones at once, each by its weight in units."""
    started = now()
    space, arrays = open_space(registry, space_ref)
    component_std = arrays.component_std
    with registry.catalog.read() as session:
        rows = [direction_named(session, space, part) for part in parts]
    fitted = maths.compose(name, [(from_row(r), w) for r, w in zip(rows, parts.values(), strict=True)], component_std)
    inputs = (_space_input(space), *(_direction_input(r) for r in rows))
    activity = Activity("direction-compose", started, {"parts": dict(parts)}, inputs)
    return _store(registry, name, space, fitted, activity, replace_existing)


def debias(
    registry: Registry,
    name: str,
    source: str,
    against: Sequence[str],
    space_ref: str | None = None,
    *,
    replace_existing: bool = False,
) -> DirectionShown:
    """Store ``source`` moved so that the attributes or directions ``against`` stay where they are."""
    check_name(name, "direction")
    if not against:
        raise UsageError(reason="say against what: [[against]] hat [[against]] skin")
    started = now()
    space, arrays = open_space(registry, space_ref)
    component_std = arrays.component_std
    with registry.catalog.read() as session:
        row = direction_named(session, space, source)
        people = labelled(session, space)
        keep = keepers(session, space, against, people, component_std)
    fitted = maths.debias(from_row(row), keep, component_std)
    everyone = {d.attribute: d for d in [*readers(people, component_std, without=fitted.attribute), *keep]}
    fitted = maths.with_leakage(fitted, list(everyone.values()))
    inputs = (_space_input(space), _direction_input(row))
    activity = Activity("direction-debias", started, {"against": list(against)}, inputs)
    return _store(registry, name, space, fitted, activity, replace_existing)


def keepers(
    session: Session,
    space: Space,
    names: Sequence[str],
    people: Labelled | None,
    component_std: NDArray[np.float32],
) -> list[Fitted]:
    """Directions to hold still: stored ones by name, else fitted on the spot from the labels of that name."""
    found = []
    for name in names:
        row = find_direction(session, space.id, name)
        if row is not None:
            found.append(from_row(row))
            continue
        people = people or labelled(session, space)
        found.append(fit_reader(name, people.coordinates, people.values(name), component_std))
    return found


def readers(
    people: Labelled,
    component_std: NDArray[np.float32],
    without: str | None = None,
    *,
    designs: Designs | None = None,
) -> list[Fitted]:
    """A reader of every (other) attribute that has enough labels to fit one."""
    found, designs = [], designs or Designs()
    for name in people.labels:
        if name != without:
            try:
                found.append(fit_reader(name, people.coordinates, people.labels[name], component_std, designs=designs))
            except UsageError:
                continue  # too few labels, or the same for everybody: nothing to leak on
    return found


def _store(
    registry: Registry, name: str, space: Space, fitted: Fitted, activity: Activity, replace_existing: bool
) -> DirectionShown:
    name = check_name(name, "direction")
    calibration = fitted.to_json()
    quality, leakage = calibration.pop("quality"), calibration.pop("leakage")
    attribute, method = calibration.pop("attribute"), calibration.pop("method")
    vector = np.ascontiguousarray(fitted.vector, "<f4").tobytes()
    reader = np.ascontiguousarray(fitted.reader, "<f4").tobytes()
    calibration["reader"] = base64.b64encode(reader).decode()
    digest = hashlib.sha256(space.digest.encode() + vector + reader + digest_of(calibration).encode()).hexdigest()
    with registry.catalog.write(registry.actor) as uow:
        old = find_direction(uow.session, space.id, name)
        if old is not None:
            if old.digest == digest:
                return shown(old, space)
            if not replace_existing:
                raise Conflict(what="direction", name=name, reason=f"already in {space.ref}; [[replace]] fits it again")
            _remove(uow, old)
        row = Direction(
            space_id=space.id,
            name=name,
            attribute=attribute,
            vector=vector,
            method=method,
            calibration=calibration,
            quality=quality,
            leakage=leakage,
            operation=record_operation(uow, activity),
            digest=digest,
            created=uow.now(),
        )
        uow.add(row)
        objects = {"direction": row.id, "space": space.id, "operation": row.operation_id}
        uow.event("direction.add", objects, digest=digest)
        return shown(row, space)


def _remove(uow: UnitOfWork, row: Direction) -> None:
    identifier, digest = row.id, row.digest
    uow.delete(row)
    uow.event("direction.remove", {"direction": identifier}, digest=digest)


def _space_input(space: Space) -> Input:
    return Input("space", InputKind.SPACE, digest=space.digest, ref=space.ref)


def _direction_input(row: Direction) -> Input:
    return Input("direction", InputKind.DIRECTION, digest=row.digest, ref=row.name)
