"""What is published on a Hub, and what is to be taken down there."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from w2w_registry.catalog.assets import Version
from w2w_registry.catalog.base import Base, autoincrement
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.types import BigInt, Json, UtcDateTime, Words, choice


class ReleaseState(StrEnum):
    """Where a release stands on the Hub, as far as the registry last saw."""

    PUBLISHED = "published"
    TAKEDOWN_QUEUED = "takedown-queued"
    GATED = "gated"
    HIDDEN = "hidden"
    DELETED = "deleted"


class TakedownState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Release(Base):
    """One version, or one space, at one commit of one repo. ``digests``: file name -> SHA-256.

    ``revision``: branch or tag; ``visibility``: public or private; ``gated``: '' (no), auto or manual.
    """

    __tablename__ = "release"
    __table_args__ = (
        CheckConstraint("(version_id IS NULL) <> (space_id IS NULL)", name="one_thing"),
        Index("ix_release_repo_id", "repo_id"),
        Index("ix_release_version_id", "version_id"),
        Index("ix_release_space_id", "space_id"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("version.id"))
    space_id: Mapped[int | None] = mapped_column(ForeignKey("space.id"))
    endpoint: Mapped[str] = mapped_column(Words)
    repo_id: Mapped[str] = mapped_column(Words)
    commit_id: Mapped[str] = mapped_column(Words)
    revision: Mapped[str] = mapped_column(Words)
    visibility: Mapped[str] = mapped_column(Words)
    gated: Mapped[str] = mapped_column(Words, default="")
    format: Mapped[str] = mapped_column(Words)
    digests: Mapped[dict[str, str]] = mapped_column(Json, default=dict)
    state: Mapped[ReleaseState] = mapped_column(choice(ReleaseState, "state"), default=ReleaseState.PUBLISHED)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    checked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    version: Mapped[Version | None] = relationship()
    space: Mapped[Space | None] = relationship()


class Takedown(Base):
    """Steps to take a release off the Hub: ``wanted`` and ``done`` are lists of steps, retried until equal."""

    __tablename__ = "takedown"
    __table_args__ = (
        Index("ix_takedown_release_id", "release_id"),
        Index("ix_takedown_state_next_at", "state", "next_at"),
        Index("ix_takedown_withdrawal_id", "withdrawal_id"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("release.id"))
    withdrawal_id: Mapped[str | None] = mapped_column(ForeignKey("withdrawal.id"))
    wanted: Mapped[list[str]] = mapped_column(Json)
    done: Mapped[list[Any]] = mapped_column(Json, default=list)
    state: Mapped[TakedownState] = mapped_column(choice(TakedownState, "state"), default=TakedownState.QUEUED)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    last_error: Mapped[str | None] = mapped_column(Words)
    next_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime)

    release: Mapped[Release] = relationship()
