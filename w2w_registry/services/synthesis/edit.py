"""Editing, mixing and sampling: new identities by arithmetic on coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, overload

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog import vectors
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Direction, InputKind, Space
from w2w_registry.catalog.points import newest_ids, spread_ids
from w2w_registry.catalog.resolve import direction_named, space_for, version_for
from w2w_registry.catalog.vectors import coordinates_of
from w2w_registry.consent.records import Use
from w2w_registry.errors import UsageError
from w2w_registry.records import Kind, OperationKind, Result, check_name, keyed, now
from w2w_registry.services.recording.garbage import seldom_collected
from w2w_registry.services.recording.searched import searching
from w2w_registry.services.recording.sources import Vector, open_space_of, same_space, source, space_input
from w2w_registry.services.recording.versions import Activity, Input
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis import directions as stored
from w2w_registry.services.synthesis.new_versions import Draft, Made, Permission, free_names, record, said_held
from w2w_registry.space import directions as maths
from w2w_registry.space import sampling
from w2w_registry.space.basis import WeightSpace

Amounts = Mapping[str, float | bool]
"""Per direction: units to move by (standard deviations of the attribute), or True / False for "yes" / "no"."""
MOST_UNITS: Final = 1000
_POPULATION: Final = 10_000  # identities that a distribution is learned from
MARGIN: Final = 0.25
"""How far beyond the average "yes" (or "no") an on/off edit aims, as a share of the way from one to the other."""


def parse_amounts(text: str) -> dict[str, float | bool]:
    """``"beard=+1.5, glasses=-1, hat=on"`` → ``{"beard": 1.5, "glasses": -1.0, "hat": True}``.

    Raises:
        UsageError: not of that form, or a direction twice.
    """
    found: dict[str, float | bool] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        name, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not name or not value:
            raise UsageError(reason=f"{part.strip()[:60]!r} is not DIRECTION=AMOUNT, as in 'beard=+1.5, hat=on'")
        if name in found:
            raise UsageError(reason=f"direction {name} is named twice")
        if value.lower() in ("on", "yes"):
            found[name] = True
        elif value.lower() in ("off", "no"):
            found[name] = False
        else:
            try:
                found[name] = float(value)
            except ValueError:
                raise UsageError(reason=f"{value[:30]!r} is neither a number of units nor on or off") from None
    return check_amounts(found)


def check_amounts(amounts: Mapping[str, float | bool]) -> dict[str, float | bool]:
    """``amounts``, if there are any and each can be meant.

    Raises:
        UsageError.
    """
    for name, amount in amounts.items():
        if not abs(float(amount)) <= MOST_UNITS:
            raise UsageError(reason=f"{float(amount):g} units of {name} make no sense")
    if not amounts:
        raise UsageError(reason="no direction given", hint="as in [[edit]] 'beard=+1.5, glasses=-1'")
    return dict(amounts)


@dataclass(frozen=True, eq=False)
class Edited(Made):
    """A version moved along directions: from which, by how much, and how usual the result is for its space."""

    source: str = field(metadata=keyed("from"))
    amounts: Mapping[str, float]
    typicality: float
    warnings: Sequence[str]


@dataclass(frozen=True, eq=False)
class Mixed(Made):
    """A version mixed of others, with their shares."""

    sources: Sequence[str] = field(metadata=keyed("from"))
    weights: Sequence[float]
    warnings: Sequence[str]


@dataclass(frozen=True, eq=False)
class Sampled(Made):
    """A version sampled from a space, with the nearest registered one, None where there was none."""

    nearest: str | None
    distance: float


@dataclass(frozen=True, eq=False)
class Samples(Result):
    """What was sampled; ``refused``: points drawn that were too near somebody."""

    space: str
    seed: int
    refused: int
    samples: Sequence[Sampled]
    warnings: Sequence[str]


@dataclass(frozen=True, eq=False)
class Move:
    """An edit worked out for one point: the change δ (k,), what was resolved, and the directions it used."""

    delta: Vector
    resolved: Mapping[str, float]
    rows: Sequence[Direction]

    def inputs(self) -> tuple[Input, ...]:
        return tuple(Input("direction", InputKind.DIRECTION, digest=r.digest, ref=r.name) for r in self.rows)


def plan_move(
    session: Session,
    space_row: Space,
    component_std: Vector,
    start: Vector,
    amounts: Amounts,
    keep: Sequence[str],
    scale: float = 1.0,
) -> Move:
    """The move of ``start`` that does ``amounts``, times ``scale``, and leaves the ``keep`` attributes where they are.

    Raises:
        NotFound: no such direction. UsageError: they contradict each other.
    """
    rows = [direction_named(session, space_row, name) for name in amounts]
    fitted = [stored.from_row(row) for row in rows]
    resolved: dict[str, float] = {}
    for name, direction in zip(amounts, fitted, strict=True):
        amount = amounts[name]
        if isinstance(amount, bool):
            goal = maths.target_reading(direction, amount, MARGIN)
            resolved[name] = maths.amount_for(direction, start, goal)
        else:
            resolved[name] = amount
    kept = stored.keepers(session, space_row, keep, None, component_std)
    targets = [(d, resolved[n] * scale) for n, d in zip(amounts, fitted, strict=True)]
    # A composed direction stands for its own name, not for an attribute somebody may also want to keep.
    delta = maths.solve_edit(targets, kept, component_std)
    return Move(delta.astype(np.float32), resolved, rows)


def said_far(start: Vector, move: Move, component_std: Vector) -> list[str]:
    """A warning where a move leads farther than nearly anybody of the space is, along its own line."""
    before, after = (sampling.distance_along(point, move.delta, component_std) for point in (start, start + move.delta))
    if after <= max(sampling.FAR, before):
        return []
    return [
        f"{after:.1f} standard deviations from the mean of the space along this edit, where hardly anybody is: it may "
        "not be drawn as you expect"
    ]


def edit(
    registry: Registry,
    ref: str,
    amounts: Amounts,
    *,
    name: str,
    keep: Sequence[str] = (),
    purpose: str | None = None,
    kind: str | None = None,
) -> Edited:
    """Record ``ref`` moved along directions as a version of ``name``.

    Raises:
        NotFound, UsageError, ConsentDenied, Conflict.
    """
    started = now()
    amounts = check_amounts(amounts)
    name = check_name(name)
    with registry.catalog.read() as session:
        start = source(session, version_for(session, ref))
        permission = Permission(Use.EDIT, versions=[start.version_id], purpose=purpose)
        decision = permission.require(registry, session)
        space_row, space = open_space_of(registry, session, start.space_id)
        move = plan_move(session, space_row, space.component_std, start.coordinates, amounts, keep)
    moved = {k: float(v) for k, v in move.resolved.items()}
    params: dict[str, Any] = {"amounts": moved, "keep": list(keep)}
    params["asked"] = {k: ("on" if v else "off") if isinstance(v, bool) else v for k, v in amounts.items()}
    activity = Activity(
        OperationKind.EDIT, started, params, (start.input("source"), space_input(space_row), *move.inputs())
    )
    coordinates = start.coordinates + move.delta
    draft = Draft(name, start.kind if kind is None else Kind.parse(kind), coordinates, activity)
    (made,) = record(registry, space_row, space, [draft], permission)
    typical = float(sampling.typicality(coordinates, space.component_std))
    warnings = [*said_held([made]), *(str(w) for w in decision.warnings)]
    warnings += said_far(start.coordinates, move, space.component_std)
    return Edited(**vars(made), source=start.ref, amounts=moved, typicality=typical, warnings=warnings)


def mix(
    registry: Registry, refs: Sequence[str], weights: Sequence[float], *, name: str, purpose: str | None = None
) -> Mixed:
    """Record the convex combination of identities as a version of ``name``.

    Raises:
        NotFound, UsageError, ConsentDenied, Conflict.
    """
    started = now()
    name = check_name(name)
    if len(refs) < 2:
        raise UsageError(reason="mixing needs at least two identities")
    with registry.catalog.read() as session:
        sources = [source(session, version_for(session, ref)) for ref in refs]
        permission = Permission(Use.MIX, versions=[s.version_id for s in sources], purpose=purpose)
        decision = permission.require(registry, session)
        space_row, space = open_space_of(registry, session, same_space(sources))
    mixed = sampling.mix([s.coordinates for s in sources], weights).astype(np.float32)
    shares = [float(w) / float(sum(weights)) for w in weights]
    inputs = (*(s.input("source") for s in sources), space_input(space_row))
    activity = Activity(OperationKind.MIX, started, {"weights": shares}, inputs)
    kinds = {s.kind for s in sources}
    draft = Draft(name, kinds.pop() if len(kinds) == 1 else Kind.OTHER, mixed, activity)
    (made,) = record(registry, space_row, space, [draft], permission)
    warnings = [*said_held([made]), *(str(w) for w in decision.warnings)]
    return Mixed(**vars(made), sources=[s.ref for s in sources], weights=shares, warnings=warnings)


def mixing_weights(count: int, given: Sequence[float]) -> tuple[float, ...]:
    """One weight for each of ``count`` identities: none given means equal ones, one for two means its share.

    Raises:
        UsageError.
    """
    if not given:
        return (1.0,) * count
    if len(given) == 1 and count == 2:
        if not 0.0 <= given[0] <= 1.0:
            raise UsageError(reason="the share of the first identity lies between 0 and 1")
        return (given[0], 1.0 - given[0])
    if len(given) != count:
        raise UsageError(reason=f"{len(given)} weights for {count} identities")
    return tuple(given)


@dataclass(frozen=True, eq=False)
class _Drawn(Sequence[Draft]):
    """Drafts of ``points`` (n, k) under their ``names``, each made when it is asked for: a hundred thousand of them
    would take far more memory than their points do. ``activity``: what drew them all."""

    names: Sequence[str]
    kind: Kind
    points: Vector
    activity: Activity

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, at: int) -> Draft: ...

    @overload
    def __getitem__(self, at: slice) -> list[Draft]: ...

    def __getitem__(self, at: int | slice) -> Draft | list[Draft]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        of = self.activity  # each draft is asked for several times, and ``replace`` takes twice as long
        params = {**of.params, "index": range(len(self))[at]}
        activity = Activity(of.kind, of.started_at, params, of.inputs, of.seed, of.models, of.energy)
        return Draft(self.names[at], self.kind, self.points[at], activity)


@seldom_collected()
def sample(
    registry: Registry,
    count: int,
    *,
    space: str | None = None,
    name: str = "sample",
    seed: int = 0,
    min_distance: float = 0.0,
    distribution: sampling.Shape = "unmixed",
    kind: str = "person",
    purpose: str | None = None,
) -> Samples:
    """Record ``count`` new identities ``name-001``… from the distribution of the space's identities.

    Distance is one minus the space's own identity score, to every registered identity and among the samples.

    Raises:
        UsageError: too few identities to sample from, or no room at that distance. ConsentDenied, NotFound.
    """
    started = now()
    with registry.catalog.read() as session:
        space_row = space_for(session, space)
        permission = Permission(Use.SAMPLE, spaces=[space_row.id], purpose=purpose)
        decision = permission.require(registry, session)
        _, weights = open_space_of(registry, session, space_row.id)
        drawn_from, learned = learned_from(session, space_row)
        known = stored.labelled(session, space_row).coordinates if min_distance else learned[:0]
        names = free_names(session, name, count)
    found = draw_samples(weights, learned, known, count, seed=seed, min_distance=min_distance, shape=distribution)
    points, refused = found.points.astype(np.float32), found.refused
    del found  # eight bytes a component of every newcomer, for as long as all of them are recorded
    params = {"shape": distribution, "count": count, "min_distance": min_distance, **drawn_from}
    activity = Activity(OperationKind.SAMPLE, started, params, (space_input(space_row),), seed)
    drafts = _Drawn(names, Kind.parse(kind), points, activity)
    with searching(registry, space_row, points) as asked:
        made = record(registry, space_row, weights, drafts, permission, asked=asked)
        near = asked.of(0, count)
    best = near.ids[:, 0].tolist() if near.size else []
    with registry.catalog.read() as session:
        refs = refs_of(session, best)
    samples = [
        Sampled(**vars(one), nearest=str(refs[best[i]]), distance=1.0 - float(near.scores[i, 0]))
        if best
        else Sampled(**vars(one), nearest=None, distance=2.0)
        for i, one in enumerate(made)
    ]
    warnings = [*said_held(made), *(str(w) for w in decision.warnings)]
    return Samples(space=space_row.ref, seed=seed, refused=refused, samples=samples, warnings=warnings)


def learned_from(session: Session, space: Space) -> tuple[dict[str, int], Vector]:
    """What is recorded of whom a distribution is learned from, and their points (n, k).

    ``population``: how many identities there are; ``learned_from``: of how many of them, evenly spaced, it was learned.
    Where more than ``_POPULATION`` versions are there counting the identities would take longer than all else;
    ``spread`` of them are taken, evenly over the versions' ids, and that is all that is told.
    """
    if vectors.count(session, space.id, most=_POPULATION + 1) > _POPULATION:
        people = spread_ids(session, space.id, _POPULATION)
        if len(people) * 2 > _POPULATION:  # else few identities have many versions
            return {"spread": len(people)}, population(session, space, people)
    people = newest_ids(session, space.id)
    learned = population(session, space, people)
    told = {"population": len(people)}
    return told | ({"learned_from": len(learned)} if len(learned) < len(people) else {}), learned


def learned_again(session: Session, space: Space, before: int, params: Mapping[str, Any]) -> Vector | None:
    """The points that ``learned_from`` told ``params`` of, as versions of a lower id than ``before`` were there; None
    when not as many of them are left."""
    if "spread" in params:
        people = spread_ids(session, space.id, _POPULATION, before)
        return population(session, space, people) if len(people) == params["spread"] else None
    people = [version for version in newest_ids(session, space.id) if version < before]
    if len(people) != params["population"]:
        return None
    return population(session, space, people, params.get("learned_from", len(people)))


def population(session: Session, space: Space, people: Sequence[int], most: int = _POPULATION) -> Vector:
    """Points (n, k) that a distribution is learned from: of ``people`` (version ids), or of ``most`` of them, evenly
    spaced."""
    if len(people) > most:
        people = [people[i] for i in np.linspace(0, len(people) - 1, most).astype(int)]
    found = coordinates_of(session, space.id, people)
    return np.stack([found[i] for i in people]) if people else np.zeros((0, space.components), np.float32)


def draw_samples(
    space: WeightSpace,
    learned: Vector,
    known: Vector,
    count: int,
    *,
    seed: int,
    min_distance: float,
    shape: sampling.Shape,
) -> sampling.Sampled:
    """Points from the distribution of ``learned`` (n, k), from the space's own spread when those are too few; told how
    far each is from ``known`` (m, k)."""
    if len(learned) >= 20:
        drawn = sampling.fit_population(learned, shape)
    else:
        centre = np.zeros(space.k) if space.coordinate_mean is None else space.coordinate_mean.astype(np.float64)
        drawn = sampling.Population("independent", centre, space.component_std.astype(np.float64))
    metric = None if space.metric is None or space.metric.weights is None else np.asarray(space.metric.weights)
    return sampling.sample(drawn, count, known, seed=seed, min_distance=min_distance, metric_weights=metric)
