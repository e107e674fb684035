"""The policy in force: rows that are only ever added, the newest of which decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from w2w_registry.catalog.base import Base, autoincrement
from w2w_registry.catalog.moment import once
from w2w_registry.catalog.types import BigInt, Hex, UtcDateTime, Words
from w2w_registry.records import canonical_json, digest_of


class Policy(Base):
    """What was allowed from ``since`` on. ``rules``: the table as canonical JSON; ``digest``: SHA-256 of it."""

    __tablename__ = "policy"
    __table_args__ = (autoincrement(),)

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    digest: Mapped[str] = mapped_column(Hex)
    rules: Mapped[str] = mapped_column(Words)
    since: Mapped[datetime] = mapped_column(UtcDateTime)


class InForce(NamedTuple):
    """A policy as it is used."""

    number: int
    digest: str
    rules: Mapping[str, Any]
    since: datetime


def make_policy(rules: Mapping[str, Any], since: datetime) -> Policy:
    """A row for ``rules``."""
    return Policy(digest=policy_digest(rules), rules=canonical_json(dict(rules)), since=since)


def policy_digest(rules: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the rules' canonical JSON."""
    return digest_of(dict(rules))


@once
def in_force(session: Session) -> InForce | None:
    """The newest policy; None in a catalog that was never given one."""
    row = session.scalar(select(Policy).order_by(Policy.id.desc()).limit(1))
    return None if row is None else _used(row)


def policies(session: Session) -> list[InForce]:
    """Every policy there was, oldest first."""
    return [_used(row) for row in session.scalars(select(Policy).order_by(Policy.id))]


def _used(row: Policy) -> InForce:
    return InForce(row.id, row.digest, json.loads(row.rules), row.since)
