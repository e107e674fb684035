"""Reading the audit log: ranges for people, raw events and row claims for verification."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, or_, select, type_coerce
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from w2w_registry.catalog.base import audited_models, table_name
from w2w_registry.catalog.event_log import ChainHead, Checkpoint, Event
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.rows import key_text, present_digests
from w2w_registry.catalog.types import UtcDateTime, stored_form
from w2w_registry.records import canonical_json


class StoredEvent(NamedTuple):
    """An event exactly as it is stored: the body its hash was taken over, if nobody touched it."""

    seq: int
    body: dict[str, Any]
    prev_hash: str
    hash: str


class PresentRow(NamedTuple):
    """A row of an audited table as it is now."""

    table: str
    key: str
    digest: str


def events(
    session: Session,
    *,
    after: int = 0,
    until: int | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
    actor: str | None = None,
    action: str | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> Iterator[Event]:
    """Events with ``after < seq <= until`` and ``since <= at < before``. ``action`` ending in ``.`` is a prefix."""
    query = select(Event).where(Event.seq > after)
    if until is not None:
        query = query.where(Event.seq <= until)
    if since is not None:
        query = query.where(Event.at >= since)
    if before is not None:
        query = query.where(Event.at < before)
    if actor is not None:
        query = query.where(Event.actor == actor)
    if action is not None:
        query = query.where(_action(action))
    query = query.order_by(Event.seq.desc() if newest_first else Event.seq).limit(limit)
    yield from session.scalars(query.execution_options(yield_per=500))


def events_touching(
    session: Session, named: Mapping[str, set[int | str]], changed: Mapping[str, set[str]]
) -> Iterator[Event]:
    """Events that name one of the ids (kind -> ids) or changed one of the rows (table -> key texts), oldest first."""
    wanted = {kind: {str(i) for i in ids} for kind, ids in named.items() if ids}
    # a coarse look in SQL, an exact one here
    looks = [Event.objects.op("LIKE")(type_coerce(f'%"{kind}":%', NullType())) for kind in wanted]
    looks += [Event.changes.op("LIKE")(type_coerce(f'%["{table}",%', NullType())) for table in changed]
    for event in session.scalars(select(Event).where(or_(*looks)).order_by(Event.seq).execution_options(yield_per=500)):
        by_name = any(
            ids.intersection(map(str, value if isinstance(value, list) else [value]))
            for kind, ids in wanted.items()
            if (value := event.objects.get(kind)) is not None
        )
        if by_name or any(key in changed.get(table, ()) for table, key, *_ in event.changes):
            yield event


def actors(session: Session, limit: int) -> set[str]:
    """Who has done anything, at most ``limit`` of them; migrations are nobody's doing."""
    query = select(Event.actor).where(Event.action != "schema.restate").distinct().limit(limit)
    return set(session.scalars(query))


@once
def last_moment(session: Session) -> datetime | None:
    """When the newest event was; None in an empty log."""
    return session.scalar(select(Event.at).order_by(Event.seq.desc()).limit(1))


def anything_recorded(session: Session) -> bool:
    """Whether the log has an event that is not about the policy."""
    other = select(Event.seq).where(~Event.action.startswith("policy.", autoescape=True)).limit(1)
    return session.scalar(other) is not None


def chain_head(session: Session) -> tuple[int, str] | None:
    """``(seq, hash)`` as the head row has it; None when the row is gone."""
    row = session.execute(select(ChainHead.seq, ChainHead.hash)).one_or_none()
    return None if row is None else (row.seq, row.hash)


class StoredCheckpoint(NamedTuple):
    """A checkpoint's columns as they are stored, whatever somebody made of them."""

    id: Any
    size: Any
    root: Any
    note: Any
    public_key_id: Any
    at: Any


def stored_checkpoints(session: Session) -> list[StoredCheckpoint]:
    """Every checkpoint, oldest first, unconverted: what was tampered with comes out as it is."""
    columns = [
        Checkpoint.id,
        Checkpoint.size,
        Checkpoint.root,
        Checkpoint.note,
        Checkpoint.public_key_id,
        Checkpoint.at,
    ]
    moment = stored_form(UtcDateTime())
    query = select(*(type_coerce(column, NullType()) for column in columns)).order_by(Checkpoint.id)
    return [StoredCheckpoint(*row[:5], moment(row[5])) for row in session.execute(query)]


def last_checkpoint(session: Session) -> int:
    """The newest checkpoint's id; 0 without any."""
    return session.scalar(select(func.max(Checkpoint.id))) or 0


def event_hashes(session: Session, *, until: int | None = None) -> list[str]:
    """Hashes of the events up to and with ``until``, in sequence."""
    query = select(Event.hash).order_by(Event.seq)
    return list(session.scalars(query if until is None else query.where(Event.seq <= until)))


def first_hash(session: Session) -> str | None:
    """The first event's hash, which tells a catalog from every other."""
    return session.scalar(select(Event.hash).where(Event.seq == 1))


def stored_events(session: Session, *, after: int = 0, until: int | None = None) -> Iterator[StoredEvent]:
    """Events in sequence, unconverted: what was tampered with comes out as it is, not as an error."""
    columns = [
        Event.seq, Event.at, Event.actor, Event.action, Event.objects, Event.changes, Event.payload, Event.policy,
        Event.prev_hash, Event.hash,
    ]  # fmt: skip
    query: Any = select(*(type_coerce(c, NullType()) for c in columns)).where(Event.seq > after)
    if until is not None:
        query = query.where(Event.seq <= until)
    moment = stored_form(UtcDateTime())
    result = session.execute(query.order_by(Event.seq).execution_options(yield_per=500))
    for seq, at, actor, action, objects, changes, payload, policy, prev_hash, digest in result:
        body = {
            "seq": seq,
            "at": moment(at),
            "actor": actor,
            "action": action,
            "objects": _value(objects),
            "changes": _value(changes),
            "payload": _value(payload),
        }
        if policy is not None:
            body["policy"] = policy
        yield StoredEvent(seq, body, prev_hash, digest)


def present_rows(session: Session) -> Iterator[PresentRow]:
    """Every row of every audited table."""
    for model in audited_models():
        for key, digest in present_digests(session, model):
            yield PresentRow(table_name(model), key_text(key), digest)


def _action(action: str) -> Any:
    return Event.action.startswith(action, autoescape=True) if action.endswith(".") else Event.action == action


def _value(text: Any) -> Any:
    """The JSON value of a text that is canonical; any other text stays a text, which no hash will fit."""
    try:
        value = json.loads(text)
        return value if canonical_json(value) == text else text
    except (TypeError, ValueError):
        return text
