"""What was done and how much of it there is: the counts behind reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import PLAIN_ADAPTER, Identity, Label, SourceFile, Tag, Version
from w2w_registry.catalog.event_log import ChainHead, Event
from w2w_registry.catalog.fingerprints import Fingerprint
from w2w_registry.catalog.operations import InputKind, Operation, OperationInput
from w2w_registry.catalog.pictures import Picture
from w2w_registry.catalog.releases import Release, ReleaseState
from w2w_registry.catalog.resolve import PRESENT
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.spaces import Direction, Space, SpaceState
from w2w_registry.catalog.subjects import ConsentRecord, Subject
from w2w_registry.records import ConsentState, OperationKind, Result, VersionState


class Used(NamedTuple):
    """An operation: kind, seconds (None when its end was not recorded), the first event that names it, joules (None:
    not measured)."""

    kind: str
    seconds: float | None
    event: int | None
    joules: float | None


class Use(NamedTuple):
    """That an operation made something of a version (by its identity's name), a space or a direction."""

    what: InputKind
    name: str
    operation: str


class Traces(NamedTuple):
    """Where the log tells of what: ``operations``, by id, the first event that names each and the joules it tells of;
    ``timed``, what has no row of its own, as it made no version: pictures drawn, fingerprints taken, files given out;
    ``shown``, the event and the version of each whose pictures were drawn or whose files were given out; ``rows``, by
    table and key, the last event that changed it."""

    operations: Mapping[str, tuple[int, float | None]]
    timed: Sequence[Used]
    shown: Sequence[tuple[int, int]]
    rows: Mapping[str, Mapping[str, int]]

    def of(self, table: str, keys: Iterable[object]) -> list[int]:
        """The events that left these rows as they are."""
        known = self.rows.get(table, {})
        return [known[str(key)] for key in keys if str(key) in known]


GENERATE: Final = "generate"
TIMED: Final = {
    "version.generate": GENERATE,
    "preview.draw": GENERATE,
    "fingerprint.take": "fingerprint",
    "version.export": "export",
}
"""What was done of which the event is the only record, and tells the time (``seconds``): action -> kind."""
_SHOWS: Final = frozenset({"version.generate", "version.export"})
TRACED: Final = frozenset({"version", "source_file", "fingerprint", "space", "direction", "release", "consent_record"})


def traces(session: Session) -> Traces:
    """One walk over the log."""
    told: dict[str, tuple[int, float | None]] = {}
    timed: list[Used] = []
    shown: list[tuple[int, int]] = []
    rows: dict[str, dict[str, int]] = {table: {} for table in TRACED}
    query = select(Event.seq, Event.action, Event.objects, Event.changes, Event.payload).order_by(Event.seq)
    for seq, action, objects, changes, payload in session.execute(query.execution_options(yield_per=500)):
        used = payload.get("energy")
        here = seq, float(used["joules"]) if isinstance(used, dict) and "joules" in used else None
        if action in TIMED:
            timed.append(Used(TIMED[action], payload.get("seconds"), *here))
        if action in _SHOWS:
            of = objects.get("version", [])
            shown += [(seq, int(key)) for key in (of if isinstance(of, list) else [of])]
        for key in _texts(objects.get("operation", ())):
            told.setdefault(key, here)
        for table, key, *_ in changes:
            if table == "operation":
                told.setdefault(str(key), here)
            elif table in TRACED:
                rows[table][str(key)] = seq
    return Traces(told, timed, shown, rows)


def operations(session: Session, told: Traces) -> list[Used]:
    """Every recorded operation, oldest first, then what has no row of its own (``TIMED``). What one run did side by
    side (one agent, one kind, one beginning) took the time until the last of it ended, once: each
    bears an equal share."""
    rows = session.execute(
        select(Operation.id, Operation.kind, Operation.agent, Operation.started_at, Operation.ended_at).order_by(
            Operation.started_at, Operation.id
        )
    ).all()
    runs: dict[tuple[str, str, datetime], list[datetime]] = {}
    for _, kind, agent, started, ended in rows:
        if ended is not None:
            runs.setdefault((kind, agent, started), []).append(ended)
    share = {run: max(0.0, (max(ends) - run[2]).total_seconds()) / len(ends) for run, ends in runs.items()}
    return [
        Used(kind, None if ended is None else share[kind, agent, started], *told.operations.get(key, (None, None)))
        for key, kind, agent, started, ended in rows
    ] + list(told.timed)


def untold_operations(session: Session, told: Traces) -> int:
    """Operations that no event names."""
    return sum(key not in told.operations for key in session.scalars(select(Operation.id)))


def events_by_action(session: Session) -> dict[str, int]:
    """How many events there are of each action."""
    return dict(session.execute(select(Event.action, func.count()).group_by(Event.action)).tuples().all())


def head(session: Session) -> tuple[int, str]:
    """How long the log is and its last hash, as the head says."""
    row = session.execute(select(ChainHead.seq, ChainHead.hash)).one()
    return row.seq, row.hash


def active_versions(session: Session) -> dict[int, int]:
    """The versions that are served, by id, and the identity of each."""
    query = select(Version.id, Version.identity_id).where(Version.state == VersionState.ACTIVE).order_by(Version.id)
    return dict(session.execute(query).tuples().all())


def uses(session: Session, *, besides: str) -> list[Use]:
    """What was made of what was there. To be taken in (imported, pulled) is no use of a space; nor is it one to be
    named as an input in the role ``besides``."""
    query = (
        select(OperationInput.kind, Identity.name, OperationInput.ref, OperationInput.operation_id)
        .join(Operation, Operation.id == OperationInput.operation_id)
        .outerjoin(Version, Version.id == OperationInput.version_id)
        .outerjoin(Identity, Identity.id == Version.identity_id)
        .where(
            OperationInput.kind.in_((InputKind.VERSION, InputKind.SPACE, InputKind.DIRECTION)),
            OperationInput.role != besides,
            Operation.kind.not_in((OperationKind.IMPORT, OperationKind.PULL)),
        )
        .order_by(OperationInput.operation_id, OperationInput.position)
    )
    return [Use(kind, name or ref or "", key) for kind, name, ref, key in session.execute(query)]


def names(session: Session, versions: Iterable[int]) -> dict[int, str]:
    """The identities' names of these versions."""
    found: dict[int, str] = {}
    for chunk in chunked(sorted(set(versions))):
        query = select(Version.id, Identity.name).join(Identity, Identity.id == Version.identity_id)
        found.update(session.execute(query.where(Version.id.in_(chunk))).tuples().all())
    return found


def spaces_and_directions(session: Session) -> tuple[int, int]:
    """How many spaces are in use, and how many directions there are."""
    spaces = session.scalar(select(func.count()).select_from(Space).where(Space.state == SpaceState.ACTIVE))
    return spaces or 0, session.scalar(select(func.count()).select_from(Direction)) or 0


def files(session: Session) -> tuple[int, int]:
    """How many files were taken in, and their bytes."""
    count, size = session.execute(select(func.count(), func.coalesce(func.sum(SourceFile.size), 0))).one()
    return int(count), int(size)


def published(session: Session) -> dict[int, tuple[str, str]]:
    """The releases of identities that are up: id → endpoint and repo, which a takedown takes as a whole."""
    up = Release.state.in_((ReleaseState.PUBLISHED, ReleaseState.GATED)), Release.version_id.is_not(None)
    query = select(Release.id, Release.endpoint, Release.repo_id).where(*up).order_by(Release.id)
    return {key: (endpoint, repo) for key, endpoint, repo in session.execute(query).tuples()}


def expiring_within(session: Session, at: datetime, days: int) -> list[str]:
    """Ids of the consent records that expire within ``days``."""
    ends = ConsentRecord.expires_at.between(at, at + timedelta(days=days))
    query = select(ConsentRecord.id).where(ConsentRecord.state == ConsentState.GRANTED, ends)
    return list(session.scalars(query.order_by(ConsentRecord.id)))


class Measured(NamedTuple):
    """What was measured of what was made: how many ``passed``, ``of`` how many, and the ``events`` that say so."""

    gate: str
    passed: int
    of: int
    events: list[int]


def quality_gates(session: Session, told: Traces) -> list[Measured]:
    """What was measured of what was made, by gate; those that nothing was made for are left out."""
    spaces = session.execute(select(Space.id, Space.calibration).where(Space.state == SpaceState.ACTIVE)).all()
    measures = session.execute(select(Direction.id, Direction.quality)).all()
    versions = session.scalar(select(func.count()).where(Version.state == VersionState.ACTIVE)) or 0
    prints = dict(
        session.execute(
            select(Fingerprint.version_id, func.min(Fingerprint.id))
            .join(Version, Version.id == Fingerprint.version_id)
            .where(Version.state == VersionState.ACTIVE)
            .group_by(Fingerprint.version_id)
        )
        .tuples()
        .all()
    )
    rows: list[tuple[str, str, list[int], int]] = [
        ("space_calibrated", "space", [key for key, c in spaces if "threshold" in (c or {})], len(spaces)),
        ("direction_measured", "direction", [key for key, quality in measures if quality], len(measures)),
        ("identity_fingerprinted", "fingerprint", list(prints.values()), versions),
    ]
    return [Measured(gate, len(passed), of, told.of(table, passed)) for gate, table, passed, of in rows if of]


def period(session: Session) -> tuple[datetime, datetime] | tuple[()]:
    """When the first and the last event were; empty without any."""
    first, last = session.execute(select(func.min(Event.at), func.max(Event.at))).one()
    return () if first is None else (first, last)


@dataclass(frozen=True, eq=False)
class InState(Result):
    """How many there are of something in a state, or of a kind."""

    what: str
    state: str
    count: int


def rows_by_state(session: Session) -> list[InState]:
    """How many there are of what people ask about, by state or kind."""
    kinds: list[tuple[str, Any]] = [
        ("subject", Subject.state),
        ("consent record", ConsentRecord.state),
        ("identity", Identity.kind),
        ("version", Version.state),
        ("space", Space.state),
        ("release", Release.state),
        ("picture", Picture.operation),
    ]
    return [
        InState(what, str(state), count)
        for what, column in kinds
        for state, count in session.execute(select(column, func.count()).group_by(column).order_by(column))
    ]


def _texts(value: object) -> Iterable[str]:
    return map(str, value) if isinstance(value, list) else (str(value),) if isinstance(value, str) else ()


def counts(session: Session) -> dict[str, Any]:
    """Counts by noun; ``by`` splits the versions in service by what distinguishes them, the commonest first."""
    served = Version.state.in_(PRESENT)

    def number(model: Any, *where: Any) -> int:
        return session.scalar(select(func.count()).select_from(model).where(*where)) or 0

    def split(column: Any, *joins: Any) -> dict[str, int]:
        query: Any = select(column, func.count()).select_from(Version)
        for join in joins:
            query = query.join(*join) if isinstance(join, tuple) else query.join(join)
        rows = session.execute(query.where(served).group_by(column)).all()
        return {str(key) if key is not None else "-": count for key, count in sorted(rows, key=lambda row: -row[1])}

    spaces = {space.id: space.ref for space in session.scalars(select(Space))}
    by_space = split(Version.space_id)
    return {
        "identities": number(Identity, Identity.removed.is_(None)),
        "versions": number(Version, served),
        "removed": number(Version, ~served),
        "spaces": len(spaces),
        "subjects": number(Subject),
        "releases": number(Release),
        "events": number(Event),
        "labels": session.scalar(select(func.count(func.distinct(Label.name)))) or 0,
        "tags": session.scalar(select(func.count(func.distinct(Tag.key)))) or 0,
        "by": {
            "kind": split(Identity.kind, Version.identity),
            "state": split(Version.state),
            "adapter": {(PLAIN_ADAPTER if key == "-" else key): count for key, count in split(Version.adapter).items()},
            "base model": split(Version.base_model),
            "space": {("-" if key == "-" else spaces[int(key)]): count for key, count in by_space.items()},
            "made by": split(Operation.kind, (Operation, Operation.id == Version.operation_id)),
            "format": split(SourceFile.format, (SourceFile, SourceFile.version_id == Version.id)),
        },
    }
