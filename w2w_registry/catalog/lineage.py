"""Ancestors and descendants by recursive SQL: version <- operation <- inputs. No graph is held in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, Row, Select, literal, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Coordinates, Identity, Version
from w2w_registry.catalog.lookup import subjects_of
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.operations import RESEMBLES, InputKind, Operation, OperationInput
from w2w_registry.catalog.rows import chunked, table_of
from w2w_registry.catalog.spaces import Space
from w2w_registry.records import Kind, VersionState

_VERSION, _INPUT = table_of(Version), table_of(OperationInput)
_SHALLOW = 16
"""Up to how many steps a limited walk counts them in SQL, where a version is met once for every number of steps that
leads to it. Beyond, it costs less to fetch everything and cut."""


@dataclass(frozen=True)
class Reach:
    """What a walk found. ``depth``: version id -> steps from the nearest start (the starts have 0).

    ``edges``: pairs (child, parent) of versions in ``depth``, each once, in no order. ``cut``: versions at the limit
    that have further relatives.
    """

    depth: dict[int, int]
    edges: Set[tuple[int, int]]
    cut: frozenset[int]

    def parents(self) -> dict[int, list[int]]:
        """What each version that was made from others was made from."""
        found: dict[int, list[int]] = {}
        for child, parent in self.edges:
            found.setdefault(child, []).append(parent)
        return found


@once
def ancestors(session: Session, starts: Iterable[int], *, depth: int | None = None) -> Reach:
    """Everything these versions were made from, at most ``depth`` steps up (None: all the way)."""
    return _walk(session, list(starts), depth, up=True)


def descendants(session: Session, starts: Iterable[int], *, depth: int | None = None) -> Reach:
    """Everything that was made from these versions, at most ``depth`` steps down (None: all the way)."""
    return _walk(session, list(starts), depth, up=False)


def sources(session: Session, starts: Iterable[int]) -> dict[int, list[int]]:
    """What these versions and everything upstream of them were made from, each by id; whom they came out to resemble is
    none of it."""
    reach = _walk(session, list(starts), None, up=True)
    found: dict[int, list[int]] = {version: [] for version in reach.depth}
    for chunk in chunked(found):
        query = (
            select(_VERSION.c.id, _INPUT.c.version_id)
            .join(_INPUT, _INPUT.c.operation_id == _VERSION.c.operation_id)
            .where(_VERSION.c.id.in_(chunk), _INPUT.c.version_id.is_not(None), _INPUT.c.role != RESEMBLES)
        )
        for child, parent in _plain(session, query):
            found[child].append(parent)
    return found


def ancestor_ids(session: Session, starts: Iterable[int]) -> set[int]:
    """Ids of these versions and everything they were made from."""
    return _ids(session, list(starts), up=True)


def descendant_ids(session: Session, starts: Iterable[int]) -> set[int]:
    """Ids of these versions and everything made from them."""
    return _ids(session, list(starts), up=False)


def upstream_subjects(session: Session, starts: Iterable[int]) -> dict[int, set[str]]:
    """For each start: the subjects it and all its ancestors depict."""
    wanted = list(starts)
    reach = ancestors(session, wanted)
    subjects = subjects_of(session, reach.depth)
    parents = reach.parents()
    found: dict[int, set[str]] = {}
    for start in wanted:
        seen, stack = {start}, [start]
        while stack:
            for parent in parents.get(stack.pop(), ()):
                if parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
        found[start] = set().union(*(subjects.get(version, ()) for version in seen))
    return found


def made_with(session: Session, digest: str) -> list[int]:
    """Ids of the versions whose operation took in this photo, file, space or direction (by digest)."""
    query = select(Version.id).join(OperationInput, OperationInput.operation_id == Version.operation_id)
    return list(session.scalars(query.where(OperationInput.digest == digest).distinct().order_by(Version.id)))


def made_from(session: Session, photos: Iterable[str]) -> dict[str, list[int]]:
    """Ids of the versions, but for erased ones, that each of these photos (by digest) is an input of."""
    found: dict[str, list[int]] = defaultdict(list)
    for chunk in chunked(sorted(photos)):
        query = (
            select(OperationInput.digest, Version.id)
            .join(Version, Version.operation_id == OperationInput.operation_id)
            .where(OperationInput.digest.in_(chunk), OperationInput.kind == InputKind.PHOTO)
            .where(Version.state != VersionState.ERASED)
        )
        for digest, version in session.execute(query.distinct().order_by(Version.id)):
            found[str(digest)].append(version)
    return found


class MadeIn(NamedTuple):
    """What a version may be a point of: the space it lives in, whether a file is kept of it, the parameters of the
    operation that made it, and a space that operation took in (a row for each; None: none)."""

    version_id: int
    space_id: int | None
    file: str | None
    params: dict[str, Any]
    took_in: int | None


def made_in(session: Session, version_ids: Iterable[int]) -> list[MadeIn]:
    """The spaces that these versions were made in or live in."""
    query = (
        select(Version.id, Version.space_id, Version.artifact_digest, Operation.params, Space.id)
        .join(Operation, Operation.id == Version.operation_id)
        .outerjoin(
            OperationInput,
            (OperationInput.operation_id == Operation.id) & (OperationInput.kind == InputKind.SPACE),
        )
        .outerjoin(Space, Space.digest == OperationInput.digest)
    )
    return [
        MadeIn(*row) for chunk in chunked(version_ids) for row in session.execute(query.where(Version.id.in_(chunk)))
    ]


class VersionFacts(NamedTuple):
    """What the provenance graph tells of a version; ``coordinates_digest``: in its own space."""

    ref: str
    kind: Kind
    state: VersionState
    operation_id: str
    space_id: int | None
    coordinates_digest: str | None


def facts_of(session: Session, version_ids: Iterable[int]) -> dict[int, VersionFacts]:
    """Facts of versions by id; those that are not there are left out."""
    query = (
        select(
            Version.id,
            Identity.name,
            Version.number,
            Identity.kind,
            Version.state,
            Version.operation_id,
            Version.space_id,
            Coordinates.digest,
        )
        .join(Identity, Identity.id == Version.identity_id)
        .outerjoin(Coordinates, (Coordinates.space_id == Version.space_id) & (Coordinates.version_id == Version.id))
    )
    return {
        row.id: VersionFacts(
            f"{row.name}@{row.number}", row.kind, row.state, row.operation_id, row.space_id, row.digest
        )
        for chunk in chunked(version_ids)
        for row in session.execute(query.where(Version.id.in_(chunk)))
    }


def inputs_of(session: Session, operation_id: str) -> list[OperationInput]:
    """What an operation took in, in order."""
    query = select(OperationInput).where(OperationInput.operation_id == operation_id)
    return list(session.scalars(query.order_by(OperationInput.position)))


def taken_repos(session: Session) -> set[str]:
    """Hub repos that anything was ever pulled from."""
    refs = session.scalars(select(OperationInput.ref).where(OperationInput.kind == InputKind.HUB).distinct())
    return {ref.partition("@")[0] for ref in refs if ref is not None}


@once
def operations_of(session: Session, version_ids: Iterable[int]) -> dict[str, tuple[Row[Any], list[Row[Any]]]]:
    """The operations that made these versions, with their inputs in order, by operation id: rows of both tables."""
    found: dict[str, tuple[Row[Any], list[Row[Any]]]] = {}
    made, inputs = table_of(Operation), table_of(OperationInput)
    for chunk in chunked(version_ids):
        wanted = Version.id.in_(chunk)
        operations = select(*made.c).join(Version, Version.operation_id == made.c.id).where(wanted)
        for operation in session.execute(operations):
            found[operation.id] = (operation, [])
        used = select(*inputs.c).join(Version, Version.operation_id == inputs.c.operation_id).where(wanted)
        for item in session.execute(used.order_by(inputs.c.operation_id, inputs.c.position)):
            found[item.operation_id][1].append(item)
    return found


def _ids(session: Session, starts: list[int], *, up: bool) -> set[int]:
    found: set[int] = set()
    for chunk in chunked(starts):
        found.update(id for (id,) in _plain(session, select(_reached(chunk, None, up=up).c.id)))
    return found


def _plain(session: Session, query: Select[Any]) -> Sequence[Any]:
    """All rows at once and past the mapper, which would take longer over ten thousand of them than the database."""
    return session.connection().execute(query).all()


def _walk(session: Session, starts: list[int], limit: int | None, *, up: bool) -> Reach:
    edges: set[tuple[int, int]] = set()
    counted = limit if limit is not None and limit <= _SHALLOW else None
    for chunk in chunked(starts):
        reached = _reached(chunk, counted, up=up)
        reach = select(reached.c.id).distinct().subquery("reach") if counted is not None else reached
        # Two integers a row, both found in indexes alone: families of ten thousand are read in a tenth of a second.
        query = _join(select(_VERSION.c.id, _INPUT.c.version_id).select_from(reach), reach.c.id, up=up)
        edges.update(map(tuple, _plain(session, query)))
    return _measure(starts, edges, limit, up=up)


def _reached(starts: list[int], limit: int | None, *, up: bool) -> CTE:
    """Ids within ``limit`` steps, with the steps; without a limit the ids alone, so that each is visited once."""
    relative = _INPUT.c.version_id if up else _VERSION.c.id
    if limit is None:
        whole = select(_VERSION.c.id).where(_VERSION.c.id.in_(starts)).cte("reached", recursive=True)
        return whole.union(_join(select(relative).select_from(whole), whole.c.id, up=up))
    near = (
        select(_VERSION.c.id, literal(0).label("depth")).where(_VERSION.c.id.in_(starts)).cte("reached", recursive=True)
    )
    step = select(relative, near.c.depth + 1).select_from(near).where(near.c.depth < limit)
    return near.union(_join(step, near.c.id, up=up))


def _join(query: Any, origin: ColumnElement[Any], *, up: bool) -> Any:
    """From versions ``origin`` over operations and inputs to their parents (``up``) or children."""
    made = _INPUT.c.operation_id == _VERSION.c.operation_id
    if up:
        query = query.join(_VERSION, _VERSION.c.id == origin).join(_INPUT, made)
        return query.where(_INPUT.c.version_id.is_not(None))
    return query.join(_INPUT, _INPUT.c.version_id == origin).join(_VERSION, made)


def _measure(starts: list[int], edges: set[tuple[int, int]], limit: int | None, *, up: bool) -> Reach:
    """Steps to each version, breadth first over the edges found; what lies beyond the limit is dropped."""
    beside: dict[int, list[int]] = defaultdict(list)
    if up:
        for child, parent in edges:
            beside[child].append(parent)
    else:
        for child, parent in edges:
            beside[parent].append(child)
    depth = dict.fromkeys(starts, 0)
    level, steps = list(depth), 0
    while level and steps != limit:
        steps += 1
        further = {relative for version in level for relative in beside.get(version, ()) if relative not in depth}
        depth.update(dict.fromkeys(further, steps))
        level = list(further)
    if limit is None:
        return Reach(depth, edges, frozenset())
    cut = {version for version in level if any(relative not in depth for relative in beside.get(version, ()))}
    inside = {(child, parent) for child, parent in edges if child in depth and parent in depth}
    return Reach(depth, inside, frozenset(cut))
