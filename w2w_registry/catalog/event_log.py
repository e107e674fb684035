"""The append-only audit log, its head and checkpoints, and unfinished long work.

These tables are not audited by events: the chain covers events, signatures cover checkpoints, triggers forbid changing
either, and a job is only a note of how far something got.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, Integer, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from w2w_registry.catalog.base import Base, autoincrement
from w2w_registry.catalog.types import BigInt, Hex, Json, UtcDateTime, Words
from w2w_registry.records import iso


class Event(Base):
    """One change, in the transaction that made it. ``seq`` counts 1, 2, 3… without a gap (a trigger sees to it).

    ``objects``: kind -> id or ids. ``changes``: ``[table, key, insert|update|delete, row digest or null]`` for every
    audited row touched. ``payload``: what else there is to say, without personal data. ``policy``: digest of the policy
    in force (None before the catalog had one).
    """

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_at", "at"), Index("ix_event_action", "action"))
    audited = False

    seq: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(Words)
    action: Mapped[str] = mapped_column(Words)
    objects: Mapped[dict[str, Any]] = mapped_column(Json)
    changes: Mapped[list[list[Any]]] = mapped_column(Json)
    payload: Mapped[dict[str, Any]] = mapped_column(Json)
    policy: Mapped[str | None] = mapped_column(Hex)
    prev_hash: Mapped[str] = mapped_column(Hex)
    hash: Mapped[str] = mapped_column(Hex)

    def body(self) -> dict[str, Any]:
        """What ``hash`` is taken over, together with ``prev_hash``."""
        body = {
            "seq": self.seq,
            "at": iso(self.at),
            "actor": self.actor,
            "action": self.action,
            "objects": self.objects,
            "changes": self.changes,
            "payload": self.payload,
        }
        return body if self.policy is None else body | {"policy": self.policy}


class ChainHead(Base):
    """The last event: one row, whose lock makes writers take turns on PostgreSQL."""

    __tablename__ = "chain_head"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    audited = False

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInt)
    hash: Mapped[str] = mapped_column(Hex)


class Checkpoint(Base):
    """A signed Merkle root over the first ``size`` events (RFC 9162). ``note``: the signed text in full."""

    __tablename__ = "checkpoint"
    __table_args__ = (autoincrement(),)
    audited = False

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    size: Mapped[int] = mapped_column(BigInt)
    root: Mapped[str] = mapped_column(Hex)
    note: Mapped[str] = mapped_column(Words)
    public_key_id: Mapped[str] = mapped_column(Words)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class Job(Base):
    """How far a long piece of work got, so that it can be resumed."""

    __tablename__ = "job"
    audited = False

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(Words, index=True)
    state: Mapped[dict[str, Any]] = mapped_column(Json)
    updated: Mapped[datetime] = mapped_column(UtcDateTime)


def jobs_of_kind(session: Session, kind: str) -> list[Job]:
    """Every note of a kind of work, oldest first."""
    return list(session.scalars(select(Job).where(Job.kind == kind).order_by(Job.updated, Job.id)))
