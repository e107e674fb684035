"""What was done and how much of it there is: the counts behind reports."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import Identity, SourceFile, Version
from w2w_registry.catalog.event_log import ChainHead, Event
from w2w_registry.catalog.fingerprints import Fingerprint
from w2w_registry.catalog.operations import Operation, OperationInput
from w2w_registry.catalog.pictures import Picture
from w2w_registry.catalog.releases import Release, ReleaseState
from w2w_registry.catalog.spaces import Direction, Space, SpaceState
from w2w_registry.catalog.subjects import ConsentRecord, Subject
from w2w_registry.records import ConsentState, VersionState


class Used(NamedTuple):
    """An operation: kind, seconds (None when its end was not recorded), the first event that names it, joules (None:
    not measured)."""

    kind: str
    seconds: float | None
    event: int | None
    joules: float | None


def operations(session: Session) -> list[Used]:
    """Every recorded operation, oldest first. What one run did side by side (one agent, one kind, one beginning) took
    the time until the last of it ended, once: each bears an equal share."""
    told = _first_events(session)
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
        Used(kind, None if ended is None else share[kind, agent, started], *told.get(key, (None, None)))
        for key, kind, agent, started, ended in rows
    ]


def untold_operations(session: Session) -> int:
    """Operations that no event names."""
    told = _first_events(session)
    return sum(key not in told for key in session.scalars(select(Operation.id)))


def events_by_action(session: Session) -> dict[str, int]:
    """How many events there are of each action."""
    return dict(session.execute(select(Event.action, func.count()).group_by(Event.action)).tuples().all())


def head(session: Session) -> tuple[int, str]:
    """How long the log is and its last hash, as the head says."""
    row = session.execute(select(ChainHead.seq, ChainHead.hash)).one()
    return row.seq, row.hash


def active_versions(session: Session) -> list[int]:
    """Ids of the versions that are served."""
    return list(session.scalars(select(Version.id).where(Version.state == VersionState.ACTIVE).order_by(Version.id)))


def inputs_used(session: Session) -> list[int]:
    """The version behind every input that was one, once for each use."""
    query = select(OperationInput.version_id).where(OperationInput.version_id.is_not(None))
    return [number for number in session.scalars(query) if number is not None]


def files(session: Session) -> tuple[int, int]:
    """How many files were taken in, and their bytes."""
    count, size = session.execute(select(func.count(), func.coalesce(func.sum(SourceFile.size), 0))).one()
    return int(count), int(size)


def published(session: Session) -> int:
    """Releases that are up."""
    up = Release.state.in_((ReleaseState.PUBLISHED, ReleaseState.GATED))
    return session.scalar(select(func.count()).select_from(Release).where(up)) or 0


def expiring_within(session: Session, at: datetime, days: int) -> int:
    """Consent records that expire within ``days``."""
    ends = ConsentRecord.expires_at.between(at, at + timedelta(days=days))
    query = select(func.count()).select_from(ConsentRecord).where(ConsentRecord.state == ConsentState.GRANTED, ends)
    return session.scalar(query) or 0


def quality_gates(session: Session) -> list[dict[str, Any]]:
    """What was measured of what was made: ``gate``, how many ``passed``, ``of`` how many."""
    spaces = list(session.scalars(select(Space.calibration).where(Space.state == SpaceState.ACTIVE)))
    measures = list(session.scalars(select(Direction.quality)))
    versions = session.scalar(select(func.count()).where(Version.state == VersionState.ACTIVE)) or 0
    known = session.scalar(
        select(func.count(Fingerprint.version_id.distinct()))
        .join(Version, Version.id == Fingerprint.version_id)
        .where(Version.state == VersionState.ACTIVE)
    )
    rows = [
        ("space_calibrated", sum("threshold" in (c or {}) for c in spaces), len(spaces)),
        ("direction_measured", sum(bool(q) for q in measures), len(measures)),
        ("identity_fingerprinted", known or 0, versions),
    ]
    return [{"gate": gate, "passed": passed, "of": of} for gate, passed, of in rows if of]


def period(session: Session) -> tuple[datetime, datetime] | tuple[()]:
    """When the first and the last event were; empty without any."""
    first, last = session.execute(select(func.min(Event.at), func.max(Event.at))).one()
    return () if first is None else (first, last)


def rows_by_state(session: Session) -> list[dict[str, Any]]:
    """How many there are of what people ask about, by state or kind: ``what``, ``state``, ``count``."""
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
        {"what": what, "state": str(state), "count": count}
        for what, column in kinds
        for state, count in session.execute(select(column, func.count()).group_by(column).order_by(column))
    ]


def _first_events(session: Session) -> dict[str, tuple[int, float | None]]:
    """Operation id -> the first event that names it, among its objects or its rows, and the joules it tells of."""
    found: dict[str, tuple[int, float | None]] = {}
    query = select(Event.seq, Event.objects, Event.changes, Event.payload).order_by(Event.seq)
    for seq, objects, changes, payload in session.execute(query.execution_options(yield_per=500)):
        used = payload.get("energy")
        told = seq, float(used["joules"]) if isinstance(used, dict) and "joules" in used else None
        for key in _texts(objects.get("operation", ())):
            found.setdefault(key, told)
        for table, key, *_ in changes:
            if table == "operation":
                found.setdefault(str(key), told)
    return found


def _texts(value: object) -> Iterable[str]:
    return map(str, value) if isinstance(value, list) else (str(value),) if isinstance(value, str) else ()
